// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.testkit;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * A Hugging Face hub for tests, on this computer: repositories in memory, with branches and
 * commits; large files on a second server (another port and therefore another origin), to which it
 * redirects; and faults on demand. Python's {@code huggingface_hub} can use it with HF_ENDPOINT.
 */
public final class HubServer implements AutoCloseable {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final Pattern API =
      Pattern.compile("/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)");
  private static final Pattern RESOLVE = Pattern.compile("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)");
  private static final Pattern RANGE = Pattern.compile("bytes=(\\d+)-(\\d*)");

  /** What a request gets instead of its answer. */
  public sealed interface Fault {
    /** The body ends after that many bytes, and the connection with it. */
    record Cut(int bytes) implements Fault {}

    /** The body stops after that many bytes, and the connection stays open. */
    record Stall(int bytes) implements Fault {}

    /** The answer is sent when the latch opens. */
    record Hold(CountDownLatch until) implements Fault {}

    /** The body's first byte is changed. */
    record Damage() implements Fault {}

    /** The answer is this status, without a body. */
    record Status(int status, Map<String, String> headers) implements Fault {}

    /** The answer is the whole file, whatever range was requested. */
    record IgnoreRange() implements Fault {}
  }

  /** A request as it was received. */
  public record Request(int port, String method, String path, Map<String, List<String>> headers) {
    public Optional<String> header(String name) {
      return Optional.ofNullable(headers.get(name)).map(values -> values.get(0));
    }
  }

  private record Armed(Predicate<Request> which, AtomicInteger times, Fault fault) {}

  private record Content(byte[] bytes, boolean large) {
    String gitSha1() {
      return hex(
          "SHA-1", ("blob " + bytes.length + "\0").getBytes(StandardCharsets.US_ASCII), bytes);
    }

    String sha256() {
      return hex("SHA-256", bytes);
    }

    String etag() {
      return large ? sha256() : gitSha1();
    }
  }

  /** A repository; files are added to its branch main. */
  public static final class Repository {
    private final String name;
    private final Map<String, Map<String, Content>> commits = new ConcurrentHashMap<>();
    private final Map<String, String> branches = new ConcurrentHashMap<>();
    private volatile String gateToken;

    private Repository(String name) {
      this.name = name;
    }

    /** Adds or replaces a file that git stores itself. */
    public Repository file(String path, byte[] bytes) {
      return put(path, new Content(bytes, false));
    }

    /** Adds or replaces a large file. */
    public Repository largeFile(String path, byte[] bytes) {
      return put(path, new Content(bytes, true));
    }

    /** From now on, files are sent only for requests with this token. */
    public Repository gated(String token) {
      gateToken = token;
      return this;
    }

    /** The commit of branch main. */
    public String commit() {
      return branches.get("main");
    }

    private synchronized Repository put(String path, Content content) {
      Map<String, Content> files = new TreeMap<>();
      if (branches.containsKey("main")) {
        files.putAll(commits.get(commit()));
      }
      files.put(path, content);
      StringBuilder all = new StringBuilder(name);
      files.forEach((name, file) -> all.append('\n').append(name).append(' ').append(file.etag()));
      String commit = hex("SHA-1", all.toString().getBytes(StandardCharsets.UTF_8));
      commits.put(commit, files);
      branches.put("main", commit);
      return this;
    }
  }

  private final HttpServer hub;
  private final HttpServer store;
  private final ExecutorService threads = Executors.newCachedThreadPool();
  private final CountDownLatch closed = new CountDownLatch(1);
  private final Map<String, Repository> repositories = new ConcurrentHashMap<>();
  private final List<Armed> faults = new CopyOnWriteArrayList<>();
  private final List<Request> requests = new CopyOnWriteArrayList<>();
  private volatile int pageSize = 1000;

  /** Serves at a free port of the loopback address. */
  public HubServer() {
    this(0);
  }

  public HubServer(int port) {
    hub = serve(port, this::answer);
    store = serve(0, this::answerFromStore);
  }

  /**
   * Serves the repositories OWNER/NAME that are folders of a folder, until standard input ends.
   * Each line of the input is a command, answered by a line: {@code gate OWNER/NAME TOKEN}; {@code
   * cut TIMES BYTES} and {@code stall TIMES BYTES}, for the next downloads of large files; {@code
   * downloads}, the number of these so far.
   */
  public static void main(String[] arguments) throws IOException {
    Path folder = Path.of(arguments[0]);
    try (HubServer server =
        new HubServer(arguments.length > 1 ? Integer.parseInt(arguments[1]) : 0)) {
      server.load(folder);
      System.out.println("Hub at " + server.endpoint());
      BufferedReader commands =
          new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
      for (String line = commands.readLine(); line != null; line = commands.readLine()) {
        System.out.println(server.obey(line.split(" ")));
      }
    }
  }

  private String obey(String... command) {
    switch (command[0]) {
      case "gate" -> repository(command[1]).gated(command[2]);
      case "cut", "stall" -> {
        int bytes = Integer.parseInt(command[2]);
        fail(
            downloads(),
            Integer.parseInt(command[1]),
            command[0].equals("cut") ? new Fault.Cut(bytes) : new Fault.Stall(bytes));
      }
      case "downloads" -> {
        return String.valueOf(requests.stream().filter(downloads()).count());
      }
      default -> throw new IllegalArgumentException(command[0]);
    }
    return "done";
  }

  /** The value for HF_ENDPOINT. */
  public URI endpoint() {
    return URI.create("http://127.0.0.1:" + hub.getAddress().getPort());
  }

  /** The port of the server for large files. */
  public int storePort() {
    return store.getAddress().getPort();
  }

  /** The repository of that name, {@code owner/name}; created if it does not exist. */
  public Repository repository(String name) {
    return repositories.computeIfAbsent(name, Repository::new);
  }

  /** Adds the repositories OWNER/NAME below a folder; files of weights count as large. */
  public void load(Path folder) throws IOException {
    try (Stream<Path> files = Files.walk(folder)) {
      for (Path file : files.filter(Files::isRegularFile).sorted().toList()) {
        Path relative = folder.relativize(file);
        String path = relative.subpath(2, relative.getNameCount()).toString();
        boolean large = path.matches(".*\\.(safetensors|bin|pt|pth|model)");
        Content content = new Content(Files.readAllBytes(file), large);
        repository(relative.subpath(0, 2).toString()).put(path, content);
      }
    }
  }

  /** Sets how many files are on one page of a listing. */
  public void pageSize(int files) {
    pageSize = files;
  }

  /** The next {@code times} requests of that kind get the fault. */
  public void fail(Predicate<Request> which, int times, Fault fault) {
    faults.add(new Armed(which, new AtomicInteger(times), fault));
  }

  /** GET requests to the server for large files. */
  public Predicate<Request> downloads() {
    return request -> request.port == storePort() && request.method.equals("GET");
  }

  /** All requests so far. */
  public List<Request> requests() {
    return List.copyOf(requests);
  }

  @Override
  public void close() {
    closed.countDown();
    hub.stop(0);
    store.stop(0);
    threads.shutdownNow();
  }

  private HttpServer serve(int port, Handler handler) {
    try {
      HttpServer server =
          HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 0);
      server.setExecutor(threads);
      server.createContext(
          "/",
          exchange -> {
            try (exchange) {
              Request request =
                  new Request(
                      server.getAddress().getPort(),
                      exchange.getRequestMethod(),
                      exchange.getRequestURI().getRawPath(),
                      Map.copyOf(exchange.getRequestHeaders()));
              requests.add(request);
              handler.answer(exchange, request, faultFor(request));
            }
          });
      server.start();
      return server;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private interface Handler {
    void answer(HttpExchange exchange, Request request, Optional<Fault> fault) throws IOException;
  }

  private Optional<Fault> faultFor(Request request) {
    return faults.stream()
        .filter(armed -> armed.which.test(request) && armed.times.getAndDecrement() > 0)
        .map(Armed::fault)
        .findFirst();
  }

  private void answer(HttpExchange exchange, Request request, Optional<Fault> fault)
      throws IOException {
    if (fault.orElse(null) instanceof Fault.Status status) {
      status.headers.forEach(exchange.getResponseHeaders()::set);
      exchange.sendResponseHeaders(status.status, -1);
      return;
    }
    Matcher api = API.matcher(request.path);
    Matcher resolve = RESOLVE.matcher(request.path);
    if (api.matches()) {
      answerApi(exchange, api);
    } else if (resolve.matches()) {
      answerResolve(exchange, request, resolve, fault);
    } else {
      error(exchange, 404, "RepoNotFound", "no such page");
    }
  }

  private void answerApi(HttpExchange exchange, Matcher api) throws IOException {
    Repository repository = repositories.get(api.group(1));
    if (repository == null) {
      error(exchange, 401, "RepoNotFound", "Repository not found");
      return;
    }
    String revision = decoded(api.group(3));
    String commit = repository.branches.getOrDefault(revision, revision);
    Map<String, Content> files = repository.commits.get(commit);
    if (files == null) {
      error(exchange, 404, "RevisionNotFound", "Invalid rev id: " + revision);
    } else if (api.group(2).equals("revision")) {
      ObjectNode info = JSON.createObjectNode().put("id", repository.name).put("sha", commit);
      ArrayNode siblings = info.putArray("siblings");
      files.keySet().forEach(path -> siblings.addObject().put("rfilename", path));
      json(exchange, info.toString());
    } else {
      answerTree(exchange, files);
    }
  }

  private void answerTree(HttpExchange exchange, Map<String, Content> files) throws IOException {
    String query = Optional.ofNullable(exchange.getRequestURI().getQuery()).orElse("");
    Matcher cursor = Pattern.compile("cursor=(\\d+)").matcher(query);
    int from = cursor.find() ? Integer.parseInt(cursor.group(1)) : 0;
    ArrayNode page = JSON.createArrayNode();
    files.entrySet().stream()
        .skip(from)
        .limit(pageSize)
        .forEach(
            entry -> {
              Content content = entry.getValue();
              ObjectNode item =
                  page.addObject()
                      .put("type", "file")
                      .put("oid", content.gitSha1())
                      .put("size", content.bytes.length)
                      .put("path", entry.getKey());
              if (content.large) {
                item.putObject("lfs")
                    .put("oid", content.sha256())
                    .put("size", content.bytes.length)
                    .put("pointerSize", 134);
              }
            });
    if (from + pageSize < files.size()) {
      exchange
          .getResponseHeaders()
          .set(
              "Link",
              "<%s%s?recursive=true&cursor=%d>; rel=\"next\""
                  .formatted(endpoint(), exchange.getRequestURI().getRawPath(), from + pageSize));
    }
    json(exchange, page.toString());
  }

  private void answerResolve(
      HttpExchange exchange, Request request, Matcher resolve, Optional<Fault> fault)
      throws IOException {
    Repository repository = repositories.get(resolve.group(1));
    if (repository == null) {
      error(exchange, 401, "RepoNotFound", "Repository not found");
      return;
    }
    String token = repository.gateToken;
    if (token != null && !request.header("Authorization").equals(Optional.of("Bearer " + token))) {
      error(exchange, 401, "GatedRepo", "Access to model " + repository.name + " is restricted");
      return;
    }
    String revision = decoded(resolve.group(2));
    String commit = repository.branches.getOrDefault(revision, revision);
    Map<String, Content> files = repository.commits.get(commit);
    Content content = files == null ? null : files.get(decoded(resolve.group(3)));
    if (content == null) {
      error(exchange, 404, files == null ? "RevisionNotFound" : "EntryNotFound", "not found");
      return;
    }
    exchange.getResponseHeaders().set("X-Repo-Commit", commit);
    if (content.large) {
      exchange.getResponseHeaders().set("X-Linked-Etag", '"' + content.sha256() + '"');
      exchange.getResponseHeaders().set("X-Linked-Size", String.valueOf(content.bytes.length));
      exchange
          .getResponseHeaders()
          .set(
              "Location",
              "http://127.0.0.1:%d/%s?signature=secret".formatted(storePort(), content.sha256()));
      exchange.sendResponseHeaders(302, -1);
    } else {
      exchange.getResponseHeaders().set("ETag", '"' + content.gitSha1() + '"');
      send(exchange, request, content.bytes, fault);
    }
  }

  private void answerFromStore(HttpExchange exchange, Request request, Optional<Fault> fault)
      throws IOException {
    if (fault.orElse(null) instanceof Fault.Status status) {
      status.headers.forEach(exchange.getResponseHeaders()::set);
      exchange.sendResponseHeaders(status.status, -1);
      return;
    }
    String sha256 = request.path.substring(1);
    Optional<Content> content =
        repositories.values().stream()
            .flatMap(repository -> repository.commits.values().stream())
            .flatMap(files -> files.values().stream())
            .filter(file -> file.large && file.sha256().equals(sha256))
            .findFirst();
    if (content.isEmpty()) {
      exchange.sendResponseHeaders(404, -1);
      return;
    }
    exchange.getResponseHeaders().set("ETag", "\"of-the-store\"");
    send(exchange, request, content.get().bytes, fault);
  }

  private void send(HttpExchange exchange, Request request, byte[] bytes, Optional<Fault> fault)
      throws IOException {
    int from = 0;
    int to = bytes.length;
    Matcher range = RANGE.matcher(request.header("Range").orElse(""));
    boolean partial = range.matches() && !(fault.orElse(null) instanceof Fault.IgnoreRange);
    if (partial) {
      from = Integer.parseInt(range.group(1));
      to = range.group(2).isEmpty() ? to : Math.min(to, Integer.parseInt(range.group(2)) + 1);
      if (from >= to) {
        exchange.sendResponseHeaders(416, -1);
        return;
      }
      exchange
          .getResponseHeaders()
          .set("Content-Range", "bytes %d-%d/%d".formatted(from, to - 1, bytes.length));
    }
    if (request.method.equals("HEAD")) {
      exchange.getResponseHeaders().set("Content-Length", String.valueOf(to - from));
      exchange.sendResponseHeaders(200, -1);
      return;
    }
    exchange.sendResponseHeaders(partial ? 206 : 200, to == from ? -1 : to - from);
    if (fault.orElse(null) instanceof Fault.Hold hold) {
      await(hold.until);
    }
    byte[] body = Arrays.copyOfRange(bytes, from, to);
    OutputStream out = exchange.getResponseBody();
    if (fault.orElse(null) instanceof Fault.Damage) {
      body[0] ^= 1;
    }
    if (fault.orElse(null) instanceof Fault.Cut cut) {
      out.write(body, 0, Math.min(cut.bytes, body.length));
      out.flush();
    } else if (fault.orElse(null) instanceof Fault.Stall stall) {
      out.write(body, 0, Math.min(stall.bytes, body.length));
      out.flush();
      await(closed);
    } else {
      out.write(body);
    }
  }

  private static void await(CountDownLatch latch) {
    try {
      if (!latch.await(5, TimeUnit.MINUTES)) {
        throw new IllegalStateException("Nothing has happened for five minutes");
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private static void json(HttpExchange exchange, String text) throws IOException {
    byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
    exchange.getResponseHeaders().set("Content-Type", "application/json");
    exchange.sendResponseHeaders(200, bytes.length);
    exchange.getResponseBody().write(bytes);
  }

  private static void error(HttpExchange exchange, int status, String code, String message)
      throws IOException {
    exchange.getResponseHeaders().set("X-Error-Code", code);
    exchange.getResponseHeaders().set("X-Error-Message", message);
    exchange.sendResponseHeaders(status, -1);
  }

  private static String decoded(String part) {
    return URLDecoder.decode(part.replace("+", "%2B"), StandardCharsets.UTF_8);
  }

  private static String hex(String algorithm, byte[]... parts) {
    try {
      MessageDigest digest = MessageDigest.getInstance(algorithm);
      for (byte[] part : parts) {
        digest.update(part);
      }
      return HexFormat.of().formatHex(digest.digest());
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }
}
