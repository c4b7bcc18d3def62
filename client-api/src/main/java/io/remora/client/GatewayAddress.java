// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.remora.actors.link.Pem;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.util.Optional;
import javax.net.ssl.TrustManager;

/**
 * Where a gateway is, and how to get in.
 *
 * @param host its host
 * @param port its port
 * @param token what it wants to be shown; null: nothing
 * @param certificate what its certificate is checked against, in PEM format; null: what Java
 *     trusts, and no TLS on loopback
 */
record GatewayAddress(String host, int port, String token, Path certificate) {

  /**
   * Reads {@code HOST:PORT}.
   *
   * @throws IllegalArgumentException if it is something else
   */
  static GatewayAddress parse(String address, String token) {
    int colon = address.lastIndexOf(':');
    try {
      int port = Integer.parseInt(address.substring(colon + 1));
      if (colon > 0 && port > 0 && port <= 65535) {
        return new GatewayAddress(address.substring(0, colon), port, token, null);
      }
    } catch (NumberFormatException e) {
      // Reported below, with what was expected.
    }
    throw new IllegalArgumentException(
        "the gateway's address must be HOST:PORT, is \"" + address + "\"");
  }

  GatewayAddress trusting(Path newCertificate) {
    return new GatewayAddress(host, port, token, newCertificate);
  }

  boolean usesTls() {
    try {
      return certificate != null || !InetAddress.getByName(host).isLoopbackAddress();
    } catch (UnknownHostException e) {
      return true;
    }
  }

  /**
   * What checks the gateway's certificate: the certificates in the file, and no others. Empty where
   * Java's own trust applies.
   *
   * @throws RemoraException if the file cannot be read
   */
  Optional<TrustManager> trust() {
    if (certificate == null) {
      return Optional.empty();
    }
    try {
      return Optional.of(Pem.trusting(Files.readString(certificate)));
    } catch (IOException | GeneralSecurityException e) {
      throw new RemoraException(
          "the certificate %s cannot be used: %s".formatted(certificate, e), e);
    }
  }

  /** Does not show the token. */
  @Override
  public String toString() {
    return host + ":" + port;
  }
}
