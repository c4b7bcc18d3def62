// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.ProtocolException;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedChannelException;
import java.nio.channels.SocketChannel;
import java.security.cert.CertificateException;
import java.time.Duration;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32C;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLEngineResult;
import javax.net.ssl.SSLEngineResult.HandshakeStatus;
import javax.net.ssl.SSLException;

/**
 * TLS over a socket. The first read performs the handshake, so that neither dialling nor accepting
 * waits for the peer. A write waits until the handshake is done. The owner of the connection limits
 * the time of the handshake by closing the connection.
 *
 * <p>After the handshake only the reading thread unwraps and only the writing thread wraps. TLS's
 * own messages, such as new keys, are then sent with the next write.
 */
final class TlsChannel extends LinkChannel {

  /** The size of the buffers. One read or write of the socket carries as many records as fit. */
  private static final int BUFFER_BYTES = 256 * 1024;

  /** How long a refused peer may take to read the reason. */
  private static final Duration FAREWELL = Duration.ofSeconds(1);

  private static final String CLOSED_EARLY =
      "the peer closed the connection in the TLS handshake: see its log for the reason. It may take links"
          + " without TLS only (remora.link.tls.mode = on there changes that)";

  private static final ByteBuffer NOTHING = ByteBuffer.allocate(0);

  private final SocketChannel socket;
  private final SSLEngine engine;

  /** Received bytes that are not yet decrypted, between position and limit. Used by the reader. */
  private final ByteBuffer received = ByteBuffer.allocate(BUFFER_BYTES).limit(0);

  /** Decrypted bytes that are not yet read, between position and limit. Used by the reader. */
  private final ByteBuffer decrypted;

  /** Encrypted bytes. Used by the writer, and by the reader until the end of the handshake. */
  private ByteBuffer encrypted = ByteBuffer.allocate(BUFFER_BYTES / 8);

  private final Object handshake = new Object();
  private volatile boolean established;

  /** The error that ended reading, if there was one. */
  private volatile RuntimeException refusal;

  private volatile Thread reader;
  private volatile boolean closed;

  TlsChannel(SocketChannel socket, SSLEngine engine) {
    super(socket);
    this.socket = socket;
    this.engine = engine;
    this.decrypted = ByteBuffer.allocate(engine.getSession().getApplicationBufferSize()).limit(0);
  }

  @Override
  void start() {}

  @Override
  boolean blocks() {
    return true;
  }

  @Override
  void awaitReadable(long millis) {}

  @Override
  void awaitWritable() {}

  @Override
  int read(ByteBuffer target) throws IOException {
    if (!established) {
      shakeHands();
    }
    if (decrypted.hasRemaining()) {
      return takeDecrypted(target);
    }
    int count = 0;
    while (true) {
      boolean straight = target.remaining() >= decrypted.capacity();
      if (!straight && count > 0) {
        return count;
      }
      SSLEngineResult result = unwrap(straight ? target : decrypted.clear());
      if (!straight) {
        decrypted.flip();
      }
      count += result.bytesProduced();
      switch (result.getStatus()) {
        case BUFFER_UNDERFLOW -> {
          if (count > 0) {
            return count;
          }
          if (!receive()) {
            return -1;
          }
        }
        case CLOSED -> {
          return count > 0 ? count : -1;
        }
        case BUFFER_OVERFLOW -> throw new SSLException("a TLS record is too large");
        case OK -> {
          if (!straight && count > 0) {
            return takeDecrypted(target);
          }
        }
      }
    }
  }

  @Override
  long write(ByteBuffer[] buffers, int offset, int count) throws IOException {
    awaitHandshake();
    try {
      return encrypt(buffers, offset, count);
    } catch (IOException e) {
      throw orRefusal(e);
    }
  }

  private long encrypt(ByteBuffer[] buffers, int offset, int count) throws IOException {
    int end = offset + count;
    int first = offset;
    int largestRecord = engine.getSession().getPacketBufferSize();
    long written = 0;
    while (first < end) {
      encrypted.clear();
      while (first < end && encrypted.remaining() >= largestRecord) {
        SSLEngineResult result = engine.wrap(buffers, first, end - first, encrypted);
        if (result.getStatus() == SSLEngineResult.Status.CLOSED) {
          throw new ClosedChannelException();
        }
        checkProgress(result);
        written += result.bytesConsumed();
        while (first < end && !buffers[first].hasRemaining()) {
          first++;
        }
      }
      send();
    }
    return written;
  }

  @Override
  void shutdownOutput() throws IOException {
    awaitHandshake();
    engine.closeOutbound();
    sendPending();
    socket.shutdownOutput();
  }

  @Override
  public void close() throws IOException {
    closed = true;
    super.close();
    synchronized (handshake) {
      handshake.notifyAll();
    }
  }

  /** Throws if there is no progress, so that no thread spins. */
  private static void checkProgress(SSLEngineResult result) throws SSLException {
    if (result.getStatus() == SSLEngineResult.Status.OK
        && result.bytesConsumed() == 0
        && result.bytesProduced() == 0) {
      throw new SSLException("TLS handshake stalled: " + result);
    }
  }

  private int takeDecrypted(ByteBuffer target) {
    int count = Math.min(decrypted.remaining(), target.remaining());
    target.put(target.position(), decrypted, decrypted.position(), count);
    target.position(target.position() + count);
    decrypted.position(decrypted.position() + count);
    return count;
  }

  private SSLEngineResult unwrap(ByteBuffer target) throws IOException {
    try {
      SSLEngineResult result = engine.unwrap(received, target);
      checkProgress(result);
      if (result.getHandshakeStatus() == HandshakeStatus.NEED_TASK) {
        runTasks();
      }
      return result;
    } catch (SSLException e) {
      RuntimeException explained = explained(e);
      synchronized (handshake) {
        refusal = explained;
        handshake.notifyAll();
      }
      throw explained;
    }
  }

  /**
   * The error for a write that failed. The peer's refusal, which only the reader sees, is a better
   * reason than the write's own error, so this waits for the reader to find it.
   */
  private IOException orRefusal(IOException failure) {
    long end = System.nanoTime() + FAREWELL.toNanos();
    boolean interrupted = false;
    synchronized (handshake) {
      while (refusal == null && !closed && Thread.currentThread() != reader && !interrupted) {
        long left = TimeUnit.NANOSECONDS.toMillis(end - System.nanoTime());
        if (left <= 0) {
          break;
        }
        try {
          handshake.wait(left);
        } catch (InterruptedException e) {
          interrupted = true;
        }
      }
    }
    if (interrupted) {
      Thread.currentThread().interrupt();
    }
    if (refusal != null) {
      throw refusal;
    }
    return failure;
  }

  /** Reads more from the socket; false if the peer has closed. */
  private boolean receive() throws IOException {
    received.compact();
    try {
      return socket.read(received) >= 0;
    } finally {
      received.flip();
    }
  }

  private void send() throws IOException {
    encrypted.flip();
    while (encrypted.hasRemaining()) {
      socket.write(encrypted);
    }
  }

  private void runTasks() {
    for (Runnable task = engine.getDelegatedTask();
        task != null;
        task = engine.getDelegatedTask()) {
      task.run();
    }
  }

  // Handshake ------------------------------------------------------------------------------------

  private void awaitHandshake() throws IOException {
    if (established) {
      return;
    }
    synchronized (handshake) {
      while (!established && !closed) {
        try {
          handshake.wait();
        } catch (InterruptedException e) {
          Thread.currentThread().interrupt();
          close();
        }
      }
    }
    if (!established) {
      throw new ClosedChannelException();
    }
  }

  private void shakeHands() throws IOException {
    reader = Thread.currentThread();
    try {
      if (!engine.getUseClientMode()) {
        receiveFirst();
      }
      engine.beginHandshake();
      while (stepHandshake()) {}
    } catch (SSLException e) {
      sayFarewell();
      throw explained(e);
    }
    encrypted = ByteBuffer.allocate(BUFFER_BYTES);
    synchronized (handshake) {
      established = true;
      handshake.notifyAll();
    }
  }

  /** Does one step of the handshake; false if it is done. */
  private boolean stepHandshake() throws IOException {
    switch (engine.getHandshakeStatus()) {
      case NEED_TASK -> runTasks();
      case NEED_WRAP -> sendPending();
      case NEED_UNWRAP, NEED_UNWRAP_AGAIN -> {
        SSLEngineResult result = engine.unwrap(received, decrypted.clear());
        decrypted.flip();
        switch (result.getStatus()) {
          case BUFFER_UNDERFLOW -> receiveInHandshake();
          case CLOSED -> throw new EOFException(CLOSED_EARLY);
          default -> {}
        }
      }
      case NOT_HANDSHAKING, FINISHED -> {
        return false;
      }
    }
    return true;
  }

  private void receiveInHandshake() throws IOException {
    boolean more;
    try {
      more = receive();
    } catch (IOException e) {
      throw closed ? e : new IOException(CLOSED_EARLY + ": " + e.getMessage(), e);
    }
    if (!more) {
      throw new EOFException(CLOSED_EARLY);
    }
    if (engine.getUseClientMode() && !looksLikeTls(received, received.position())) {
      throw new ProtocolException("the peer answers without TLS: set remora.link.tls.mode there");
    }
  }

  /** Receives the first bytes. A peer without TLS gets an answer in the plain protocol. */
  private void receiveFirst() throws IOException {
    if (!receive()) {
      throw new EOFException("the peer closed the connection before it said anything");
    }
    if (looksLikeTls(received, received.position())) {
      return;
    }
    byte[] refused =
        Refused.newBuilder()
            .setReason(Reason.REASON_MALFORMED)
            .setMessage(
                "this port takes links with TLS only: set remora.link.tls (mode = on, and"
                    + " certificates) on the dialling side")
            .build()
            .toByteArray();
    CRC32C crc = new CRC32C();
    crc.update(refused);
    ByteBuffer frame = ByteBuffer.allocate(FrameHeader.BYTES + refused.length);
    new FrameHeader(FrameType.REFUSED, 0, refused.length, 0, 0, (int) crc.getValue())
        .writeTo(frame, 0);
    socket.write(frame.put(refused).flip());
    letRead();
    throw new ProtocolException(
        "the peer speaks without TLS, but this port takes links with TLS only: set"
            + " remora.link.tls (mode = on, and certificates) there");
  }

  /** Whether these bytes are the start of a TLS record and not of a frame. */
  static boolean looksLikeTls(ByteBuffer bytes, int start) {
    int type = bytes.get(start) & 0xff;
    return type >= 0x14
        && type <= 0x17
        && (bytes.limit() - start < 3 || (bytes.get(start + 1) == 3 && bytes.get(start + 2) <= 4));
  }

  private void sendPending() throws IOException {
    do {
      encrypted.clear();
      engine.wrap(NOTHING, encrypted);
      send();
    } while (encrypted.limit() > 0 && engine.getHandshakeStatus() == HandshakeStatus.NEED_WRAP);
  }

  /** Sends the alert with the reason, and lets it arrive before the connection ends. */
  private void sayFarewell() {
    try {
      sendPending();
      letRead();
    } catch (IOException e) {
      // The peer is already gone.
    }
  }

  /** Waits until the peer closes, for no longer than {@link #FAREWELL}. */
  private void letRead() throws IOException {
    socket.shutdownOutput();
    LinkWatch.after(FAREWELL, this::closeQuietly);
    do {
      received.clear();
    } while (socket.read(received) >= 0);
  }

  private void closeQuietly() {
    try {
      close();
    } catch (IOException e) {
      // The connection is broken, so there is nothing to wait for.
    }
  }

  /** An error that explains which side refuses what, and what to do about it. */
  private static RuntimeException explained(SSLException failure) {
    for (Throwable cause = failure; cause != null; cause = cause.getCause()) {
      if (cause instanceof CertificateException refusal) {
        return new AuthenticationException(
            "this side refuses the peer's certificate: " + refusal.getMessage(), failure);
      }
    }
    String text = String.valueOf(failure.getMessage());
    if (text.contains("Empty client certificate chain")) {
      return new AuthenticationException(
          "this side refuses the peer, which has shown no certificate: set"
              + " remora.link.tls.certificate and private-key there",
          failure);
    }
    if (text.contains("fatal alert") && text.matches(".*(certificate|unknown_ca).*")) {
      return new AuthenticationException(
          ("the peer refuses this side's certificate (%s): remora.link.tls there does "
                  + "not trust it (trusted-certificates, pins, peer-names); see the peer's log")
              .formatted(text.substring(text.lastIndexOf(' ') + 1)),
          failure);
    }
    return new ProtocolException("TLS failed: " + text, failure);
  }
}
