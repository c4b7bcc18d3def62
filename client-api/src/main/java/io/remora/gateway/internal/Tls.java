// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.pki.pem.DERPrivateKeyLoader;
import akka.pki.pem.PEMDecoder;
import akka.pki.pem.PEMLoadingException;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.TrustManagerFactory;

/** TLS from files in PEM format. */
public final class Tls {

  private static final char[] NO_PASSWORD = {};

  private Tls() {}

  /**
   * What a server proves itself with.
   *
   * @throws RemoraException if the files cannot be read
   */
  public static SSLContext server(Path certificate, Path privateKey) {
    try {
      KeyStore store = KeyStore.getInstance("PKCS12");
      store.load(null, NO_PASSWORD);
      store.setKeyEntry("gateway", privateKey(privateKey), NO_PASSWORD, certificates(certificate));
      KeyManagerFactory keys =
          KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
      keys.init(store, NO_PASSWORD);
      SSLContext context = SSLContext.getInstance("TLS");
      context.init(keys.getKeyManagers(), null, null);
      return context;
    } catch (IOException | GeneralSecurityException | PEMLoadingException e) {
      throw new RemoraException(
          "the gateway's certificate %s and private key %s cannot be used: %s"
              .formatted(certificate, privateKey, e),
          e);
    }
  }

  /**
   * What a client trusts: the certificates in this file, and no others.
   *
   * @throws RemoraException if it cannot be read
   */
  public static TrustManager trusting(Path certificate) {
    try {
      KeyStore store = KeyStore.getInstance("PKCS12");
      store.load(null, NO_PASSWORD);
      Certificate[] trusted = certificates(certificate);
      for (int i = 0; i < trusted.length; i++) {
        store.setCertificateEntry("trusted-" + i, trusted[i]);
      }
      TrustManagerFactory factory =
          TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
      factory.init(store);
      return factory.getTrustManagers()[0];
    } catch (IOException | GeneralSecurityException e) {
      throw new RemoraException(
          "the certificate %s cannot be used: %s".formatted(certificate, e), e);
    }
  }

  private static PrivateKey privateKey(Path file) throws IOException {
    return DERPrivateKeyLoader.load(PEMDecoder.decode(Files.readString(file)));
  }

  private static Certificate[] certificates(Path file)
      throws IOException, GeneralSecurityException {
    try (InputStream in = Files.newInputStream(file)) {
      return CertificateFactory.getInstance("X.509")
          .generateCertificates(in)
          .toArray(Certificate[]::new);
    }
  }
}
