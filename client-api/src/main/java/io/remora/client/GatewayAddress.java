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
 * The address of a gateway, with the credentials for it.
 *
 * @param host its host
 * @param port its port
 * @param token the secret that the gateway asks for; null for none
 * @param certificate a PEM file to check the gateway's certificate against; null to use the
 *     certificates that Java trusts, and no TLS on loopback
 */
record GatewayAddress(String host, int port, String token, Path certificate) {

  /**
   * Reads {@code HOST:PORT}.
   *
   * @throws IllegalArgumentException if the text has another form
   */
  static GatewayAddress parse(String address, String token) {
    int colon = address.lastIndexOf(':');
    try {
      int port = Integer.parseInt(address.substring(colon + 1));
      if (colon > 0 && port > 0 && port <= 65535) {
        return new GatewayAddress(address.substring(0, colon), port, token, null);
      }
    } catch (NumberFormatException e) {
      // Reported below, together with the expected form.
    }
    throw new IllegalArgumentException(
        "the gateway's address must be HOST:PORT, but is \"" + address + "\"");
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
   * The trust manager that checks the gateway's certificate against the certificates in the file,
   * and no others. Empty if Java's own trust applies.
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

  /** Leaves out the token. */
  @Override
  public String toString() {
    return host + ":" + port;
  }
}
