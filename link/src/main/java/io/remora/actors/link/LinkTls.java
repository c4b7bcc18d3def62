// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static java.util.Objects.requireNonNull;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.security.GeneralSecurityException;
import java.security.cert.CertificateException;
import java.security.cert.X509Certificate;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Consumer;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509ExtendedTrustManager;

/**
 * The TLS settings of links, {@code remora.link.tls} in the configuration; {@code reference.conf}
 * explains each key. TLS is always mutual: both sides show a certificate, and both check the
 * other's. Immutable; thread-safe.
 */
public final class LinkTls {

  /** When links are encrypted. */
  public enum Mode {
    /** Never: addresses off loopback are refused. */
    OFF,
    /** Always. */
    ON,
    /** Off loopback. */
    AUTO
  }

  /** The path of the settings in the configuration. */
  public static final String PATH = LinkSettings.PATH + ".tls";

  /** No TLS, which allows only loopback addresses. */
  public static final LinkTls OFF =
      new LinkTls(
          Mode.OFF,
          null,
          null,
          null,
          List.of(),
          false,
          ConfigFactory.parseMap(Map.of(LinkTls.PATH + ".mode", "off")));

  /** The node's environment variables and the keys that they set. */
  private static final Map<String, String> VARIABLES =
      Map.of(
          "REMORA_NODE_TLS_CERTIFICATE", "certificate",
          "REMORA_NODE_TLS_PRIVATE_KEY", "private-key",
          "REMORA_NODE_TLS_TRUSTED_CERTIFICATES", "trusted-certificates");

  private static final String PINS_VARIABLE = "REMORA_NODE_TLS_PINS";

  private final Mode mode;

  /** Null if there are no certificates. */
  private final SSLContext context;

  private final X509Certificate own;
  private final PeerTrust trust;

  private final List<String> protocols;
  private final boolean checkHost;
  private final Config settings;

  private LinkTls(
      Mode mode,
      SSLContext context,
      X509Certificate own,
      PeerTrust trust,
      List<String> protocols,
      boolean checkHost,
      Config settings) {
    this.mode = mode;
    this.context = context;
    this.own = own;
    this.trust = trust;
    this.protocols = protocols;
    this.checkHost = checkHost;
    this.settings = settings;
  }

  /**
   * Reads {@code remora.link.tls}, and the files that it names.
   *
   * @param root the whole configuration, with the defaults of {@code reference.conf}
   * @throws IllegalArgumentException if a value is out of range or unusable; the message names the
   *     key
   */
  public static LinkTls from(Config root) {
    Config tls = root.getConfig(PATH);
    Mode mode = mode(tls.getString("mode"));
    String certificate = tls.getString("certificate");
    String privateKey = tls.getString("private-key");
    String trusted = tls.getString("trusted-certificates");
    List<String> pins = tls.getStringList("pins");
    List<String> names = tls.getStringList("peer-names");
    List<String> protocols = protocols(tls.getString("min-protocol"));
    boolean nothing = certificate.isBlank() && privateKey.isBlank();
    if (mode == Mode.OFF || (mode == Mode.AUTO && nothing && trusted.isBlank() && pins.isEmpty())) {
      return new LinkTls(mode, null, null, null, protocols, false, tls.atPath(PATH));
    }
    if (certificate.isBlank() || privateKey.isBlank()) {
      throw new IllegalArgumentException(
          PATH
              + ": certificate and private-key must both be set, since both sides of a link "
              + "show a certificate");
    }
    if (trusted.isBlank() && pins.isEmpty()) {
      throw new IllegalArgumentException(
          PATH
              + ": trusted-certificates or pins must be set, to say which certificates are "
              + "accepted");
    }
    boolean checkHost = pins.isEmpty() && names.isEmpty();
    LinkCertificate own =
        new LinkCertificate(
            readable("certificate", certificate), readable("private-key", privateKey));
    return of(
        mode,
        own,
        trusted.isBlank() ? "" : readable("trusted-certificates", trusted),
        pins,
        names,
        protocols,
        checkHost);
  }

  /**
   * TLS on all addresses, for links between two sides that know each other's certificate. For a
   * provider that launches a node with {@link #launchEnvironment}.
   *
   * @param own this side's certificate
   * @param pin the other's {@link LinkCertificate#pin}
   */
  public static LinkTls pinned(LinkCertificate own, String pin) {
    return of(Mode.ON, own, "", List.of(pin), List.of(), protocols("TLSv1.3"), false);
  }

  /**
   * The environment variables for a node that shows this certificate and accepts only links of the
   * owner with this pin. They contain the private key: keep them out of arguments and logs.
   */
  public static Map<String, String> launchEnvironment(LinkCertificate node, String ownerPin) {
    return Map.of(
        "REMORA_NODE_TLS_CERTIFICATE",
        node.certificate(),
        "REMORA_NODE_TLS_PRIVATE_KEY",
        node.privateKey(),
        PINS_VARIABLE,
        ownerPin);
  }

  /**
   * The settings from a node's environment: {@code REMORA_NODE_TLS_CERTIFICATE}, {@code
   * …_PRIVATE_KEY}, {@code …_TRUSTED_CERTIFICATES} and {@code …_PINS} (separated by commas). Any of
   * them turns TLS on for all addresses.
   */
  public static Config ofEnvironment(Map<String, String> environment) {
    Map<String, Object> keys = new HashMap<>();
    VARIABLES.forEach(
        (variable, key) -> {
          String value = environment.get(variable);
          if (value != null && !value.isBlank()) {
            keys.put(PATH + "." + key, value);
          }
        });
    String pins = environment.get(PINS_VARIABLE);
    if (pins != null && !pins.isBlank()) {
      keys.put(PATH + ".pins", List.of(pins.trim().split("\\s*,\\s*")));
    }
    if (!keys.isEmpty()) {
      keys.put(PATH + ".mode", "on");
    }
    return ConfigFactory.parseMap(keys, "REMORA_NODE_TLS_…");
  }

  /**
   * The keys of {@code remora.link.tls} that give another process the same settings, with
   * certificates and the private key as text. The result is a secret.
   */
  public Config settings() {
    return settings;
  }

  /**
   * Whether a link to or at this address is encrypted.
   *
   * @param action the action, for the message, such as "listen on"
   * @throws RemoraException if it must be encrypted, but there are no certificates
   */
  boolean protects(InetSocketAddress address, String action) {
    if (address.isUnresolved()) {
      throw new RemoraException("cannot " + action + " " + address + ": unknown host");
    }
    boolean loopback = address.getAddress().isLoopbackAddress();
    if (mode == Mode.ON || (mode == Mode.AUTO && !loopback && context != null)) {
      return true;
    }
    if (!loopback) {
      throw new RemoraException(
          "will not %s %s: links off loopback must be encrypted. Set remora.link.tls.%s (docs/security.md), or use a loopback address (127.0.0.1, ::1)"
              .formatted(
                  action,
                  LinkTransport.text(address),
                  mode == Mode.OFF
                      ? "mode = auto, and certificates"
                      : "certificate, private-key and trusted-certificates or pins"));
    }
    return false;
  }

  /**
   * Checks this side's certificate before dialling, since the peer's refusal could not say that it
   * has expired.
   *
   * @throws AuthenticationException if it has expired
   */
  void checkOwn() {
    if (own != null && own.getNotAfter().toInstant().isBefore(Instant.now())) {
      throw new AuthenticationException(
          "this side's certificate (%s) expired at %s: renew remora.link.tls.certificate"
              .formatted(own.getSubjectX500Principal().getName(), own.getNotAfter().toInstant()));
    }
  }

  /** Whether there are certificates. */
  public boolean isConfigured() {
    return context != null;
  }

  /**
   * Sets a listener for the reasons why peers' certificates are refused, in addition to the
   * exceptions. Returns this.
   */
  public LinkTls onRefusal(Consumer<CertificateException> listener) {
    if (trust != null) {
      trust.onRefusal(listener);
    }
    return this;
  }

  /**
   * An engine for one connection.
   *
   * @param client whether this side dials
   * @param host the other side's host; checked against the node's certificate if neither pins nor
   *     names are set
   * @throws IllegalStateException if there are no certificates
   */
  public SSLEngine engine(boolean client, String host, int port) {
    if (context == null) {
      throw new IllegalStateException(PATH + " has no certificates");
    }
    SSLEngine engine = context.createSSLEngine(host, port);
    engine.setUseClientMode(client);
    SSLParameters parameters = engine.getSSLParameters();
    parameters.setProtocols(protocols.toArray(String[]::new));
    parameters.setNeedClientAuth(true);
    if (client && checkHost) {
      parameters.setEndpointIdentificationAlgorithm("HTTPS");
    }
    engine.setSSLParameters(parameters);
    return engine;
  }

  /** Contains only the mode and whether there are certificates. */
  @Override
  public String toString() {
    return "LinkTls(%s, %s)".formatted(mode, context == null ? "no certificates" : "certificates");
  }

  private static LinkTls of(
      Mode mode,
      LinkCertificate own,
      String trusted,
      List<String> pins,
      List<String> names,
      List<String> protocols,
      boolean checkHost) {
    try {
      X509ExtendedTrustManager authorities =
          trusted.isBlank() ? null : (X509ExtendedTrustManager) Pem.trusting(trusted);
      PeerTrust trust = new PeerTrust(authorities, pins, names);
      SSLContext context = SSLContext.getInstance("TLS");
      context.init(
          Pem.keyManagers(own.certificate(), own.privateKey()), new TrustManager[] {trust}, null);
      X509Certificate certificate = Pem.certificates(own.certificate()).get(0);
      Config settings =
          ConfigFactory.parseMap(
                  Map.of(
                      "mode", mode.name().toLowerCase(Locale.ROOT),
                      "certificate", own.certificate(),
                      "private-key", own.privateKey(),
                      "trusted-certificates", trusted,
                      "pins", pins,
                      "peer-names", names,
                      "min-protocol", protocols.get(protocols.size() - 1)))
              .atPath(PATH);
      return new LinkTls(mode, context, certificate, trust, protocols, checkHost, settings);
    } catch (GeneralSecurityException e) {
      throw new IllegalArgumentException(
          PATH + ": the certificates cannot be used: " + e.getMessage(), e);
    }
  }

  private static String readable(String key, String setting) {
    requireNonNull(setting, key);
    try {
      return Pem.text(setting);
    } catch (IOException e) {
      throw new IllegalArgumentException(PATH + "." + key + ": " + e.getMessage(), e);
    }
  }

  private static Mode mode(String text) {
    try {
      return Mode.valueOf(text.toUpperCase(Locale.ROOT));
    } catch (IllegalArgumentException e) {
      // HOCON's on and off may also arrive as booleans.
      return switch (text) {
        case "true" -> Mode.ON;
        case "false" -> Mode.OFF;
        default ->
            throw new IllegalArgumentException(
                PATH + ".mode must be off, on or auto, but is " + text, e);
      };
    }
  }

  private static List<String> protocols(String least) {
    return switch (least) {
      case "TLSv1.3" -> List.of("TLSv1.3");
      case "TLSv1.2" -> List.of("TLSv1.3", "TLSv1.2");
      default ->
          throw new IllegalArgumentException(
              PATH + ".min-protocol must be TLSv1.3 or TLSv1.2, but is " + least);
    };
  }
}
