// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import io.remora.actors.link.Pem;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import javax.net.ssl.SSLContext;

/** The gateway's TLS, from files in PEM format. */
public final class Tls {

  private Tls() {}

  /**
   * The TLS context of a server with this certificate.
   *
   * @throws RemoraException if the files cannot be read
   */
  public static SSLContext server(Path certificate, Path privateKey) {
    try {
      SSLContext context = SSLContext.getInstance("TLS");
      context.init(
          Pem.keyManagers(Files.readString(certificate), Files.readString(privateKey)), null, null);
      return context;
    } catch (IOException | GeneralSecurityException e) {
      throw new RemoraException(
          "the gateway's certificate %s and private key %s cannot be used: %s"
              .formatted(certificate, privateKey, e),
          e);
    }
  }
}
