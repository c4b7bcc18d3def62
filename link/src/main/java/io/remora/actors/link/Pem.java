// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.InvalidKeyException;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.Signature;
import java.security.cert.CertificateException;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.util.List;
import javax.net.ssl.KeyManager;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.TrustManager;
import javax.net.ssl.TrustManagerFactory;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.openssl.PEMKeyPair;
import org.bouncycastle.openssl.PEMParser;
import org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter;

/** Reads certificates and keys in PEM format for TLS. */
public final class Pem {

  private static final String BEGIN = "-----BEGIN ";
  private static final String NO_KEY = "expected an unencrypted private key in PEM format";
  private static final char[] NO_PASSWORD = {};

  private Pem() {}

  /**
   * The PEM text of a setting, which is either the text itself or the path of a file.
   *
   * @throws IOException if the file cannot be read; the message names it
   */
  public static String text(String setting) throws IOException {
    if (setting.contains(BEGIN)) {
      return setting;
    }
    try {
      return Files.readString(Path.of(setting));
    } catch (IOException | IllegalArgumentException e) {
      throw new IOException("the file %s cannot be read: %s".formatted(setting, e), e);
    }
  }

  /**
   * All certificates of a text, in their order.
   *
   * @throws GeneralSecurityException if there is no certificate, or one cannot be read
   */
  public static List<X509Certificate> certificates(String pem) throws GeneralSecurityException {
    List<X509Certificate> certificates =
        CertificateFactory.getInstance("X.509")
            .generateCertificates(new ByteArrayInputStream(pem.getBytes(StandardCharsets.US_ASCII)))
            .stream()
            .map(X509Certificate.class::cast)
            .toList();
    if (certificates.isEmpty()) {
      throw new CertificateException("there is no certificate in PEM format");
    }
    return certificates;
  }

  /**
   * The key managers for an unencrypted private key and its certificate with the chain.
   *
   * @throws GeneralSecurityException if they cannot be read or do not belong together; the message
   *     shows nothing of the key
   */
  public static KeyManager[] keyManagers(String certificate, String privateKey)
      throws GeneralSecurityException {
    List<X509Certificate> chain = certificates(certificate);
    PrivateKey key = privateKey(privateKey);
    checkPair(chain.get(0).getPublicKey(), key);
    KeyStore store = emptyStore();
    store.setKeyEntry("own", key, NO_PASSWORD, chain.toArray(X509Certificate[]::new));
    KeyManagerFactory factory =
        KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
    factory.init(store, NO_PASSWORD);
    return factory.getKeyManagers();
  }

  /**
   * A trust manager that trusts these certificates and those that they have signed, and no others.
   *
   * @throws GeneralSecurityException if they cannot be read
   */
  public static TrustManager trusting(String certificates) throws GeneralSecurityException {
    KeyStore store = emptyStore();
    int number = 0;
    for (X509Certificate certificate : certificates(certificates)) {
      store.setCertificateEntry("trusted-" + number++, certificate);
    }
    TrustManagerFactory factory = TrustManagerFactory.getInstance("PKIX");
    factory.init(store);
    return factory.getTrustManagers()[0];
  }

  private static PrivateKey privateKey(String pem) throws GeneralSecurityException {
    try (PEMParser parser = new PEMParser(new StringReader(pem))) {
      JcaPEMKeyConverter converter = new JcaPEMKeyConverter();
      for (Object next = parser.readObject(); next != null; next = parser.readObject()) {
        if (next instanceof PrivateKeyInfo key) {
          return converter.getPrivateKey(key);
        }
        if (next instanceof PEMKeyPair pair) {
          return converter.getKeyPair(pair).getPrivate();
        }
      }
    } catch (IOException | RuntimeException e) {
      throw new GeneralSecurityException(NO_KEY, e);
    }
    throw new GeneralSecurityException(NO_KEY);
  }

  /**
   * Checks that the key is the certificate's. Otherwise every handshake would fail with an unclear
   * error.
   */
  private static void checkPair(PublicKey publicKey, PrivateKey privateKey)
      throws GeneralSecurityException {
    String algorithm =
        switch (privateKey.getAlgorithm()) {
          case "RSA" -> "SHA256withRSA";
          case "EC", "ECDSA" -> "SHA256withECDSA";
          default -> privateKey.getAlgorithm();
        };
    try {
      Signature signature = Signature.getInstance(algorithm);
      signature.initSign(privateKey);
      byte[] signed = signature.sign();
      signature.initVerify(publicKey);
      if (signature.verify(signed)) {
        return;
      }
    } catch (InvalidKeyException e) {
      throw new GeneralSecurityException("the private key is not the certificate's", e);
    }
    throw new GeneralSecurityException("the private key is not the certificate's");
  }

  private static KeyStore emptyStore() throws GeneralSecurityException {
    try {
      KeyStore store = KeyStore.getInstance("PKCS12");
      store.load(null, NO_PASSWORD);
      return store;
    } catch (IOException e) {
      throw new GeneralSecurityException(e);
    }
  }
}
