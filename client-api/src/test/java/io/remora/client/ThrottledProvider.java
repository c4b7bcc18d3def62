// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import akka.Done;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineProviders;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.locks.LockSupport;

/**
 * The mock provider's machines behind a slow line: each way carries {@link #BYTES_PER_SECOND} and
 * buffers next to nothing.
 */
public final class ThrottledProvider implements MachineProvider {

  static final String NAME = "throttled";
  static final long BYTES_PER_SECOND = 40L << 20;

  private static final int PIECE = 16 * 1024;
  private static final int SOCKET_BUFFER = 128 * 1024;

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return MachineProviders.named("mock").provision(spec, context).thenApply(Throttled::new);
  }

  private static final class Throttled implements ProvisionedNode {

    private final ProvisionedNode node;
    private final ServerSocket listening;

    Throttled(ProvisionedNode node) {
      this.node = node;
      try {
        listening = new ServerSocket();
        listening.setReceiveBufferSize(SOCKET_BUFFER);
        listening.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0));
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
      start(this::accept);
    }

    @Override
    public InetSocketAddress address() {
      return (InetSocketAddress) listening.getLocalSocketAddress();
    }

    @Override
    public LaunchToken token() {
      return node.token();
    }

    @Override
    public String description() {
      return node.description() + " behind a slow line";
    }

    @Override
    public CompletionStage<NodeExit> exited() {
      return node.exited();
    }

    @Override
    public CompletionStage<Done> terminate() {
      try {
        listening.close();
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
      return node.terminate();
    }

    private void accept() throws IOException {
      while (true) {
        Socket near = listening.accept();
        Socket far = new Socket(node.address().getAddress(), node.address().getPort());
        start(() -> carry(near, far));
        start(() -> carry(far, near));
      }
    }

    private static void carry(Socket from, Socket to) throws IOException {
      to.setTcpNoDelay(true);
      to.setSendBufferSize(SOCKET_BUFFER);
      InputStream in = from.getInputStream();
      OutputStream out = to.getOutputStream();
      byte[] piece = new byte[PIECE];
      long free = System.nanoTime();
      for (int count = in.read(piece); count >= 0; count = in.read(piece)) {
        free = Math.max(free, System.nanoTime()) + count * 1_000_000_000L / BYTES_PER_SECOND;
        out.write(piece, 0, count);
        LockSupport.parkNanos(free - System.nanoTime());
      }
      to.close();
    }

    private interface Action {
      void run() throws IOException;
    }

    private static void start(Action action) {
      Thread thread =
          new Thread(
              () -> {
                try {
                  action.run();
                } catch (IOException e) {
                  // One of the two ends has closed.
                }
              },
              "slow-line");
      thread.setDaemon(true);
      thread.start();
    }
  }
}
