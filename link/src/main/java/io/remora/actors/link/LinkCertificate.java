// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static java.util.Objects.requireNonNull;

import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.security.SecureRandom;
import java.security.cert.CertificateEncodingException;
import java.security.cert.CertificateException;
import java.security.cert.X509Certificate;
import java.security.spec.ECGenParameterSpec;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.Date;
import java.util.HexFormat;
import java.util.Locale;
import org.bouncycastle.asn1.x500.X500Name;
import org.bouncycastle.asn1.x509.BasicConstraints;
import org.bouncycastle.asn1.x509.Extension;
import org.bouncycastle.cert.CertIOException;
import org.bouncycastle.cert.jcajce.JcaX509v3CertificateBuilder;
import org.bouncycastle.operator.OperatorCreationException;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;

/**
 * The certificate and key by which one side of a link proves its identity.
 *
 * @param certificate the certificate in PEM format
 * @param privateKey its key in PEM format (PKCS #8, without a password)
 */
public record LinkCertificate(String certificate, String privateKey) {

  private static final int PIN_DIGITS = 64;

  /** The largest difference between the clocks of two computers. */
  private static final Duration CLOCK_SKEW = Duration.ofHours(1);

  /** Checks that nothing is null. */
  public LinkCertificate {
    requireNonNull(certificate, "certificate");
    requireNonNull(privateKey, "privateKey");
  }

  /**
   * Creates a new key (P-256) and a self-signed certificate for it. Peers must know its {@link
   * #pin()}: a provider gives it to the node that it launches and to the machine that connects.
   * Takes milliseconds.
   *
   * @param name the owner's name in the certificate, for logs: letters, digits, dots, dashes
   * @param validity how long the certificate is accepted; connected links outlive it
   */
  public static LinkCertificate ephemeral(String name, Duration validity) {
    if (!name.matches("[A-Za-z0-9._-]{1,64}")) {
      throw new IllegalArgumentException("'" + name + "' is not a valid name for a certificate");
    }
    if (validity.isZero() || validity.isNegative()) {
      throw new IllegalArgumentException("validity must be positive, but is " + validity);
    }
    try {
      KeyPairGenerator generator = KeyPairGenerator.getInstance("EC");
      generator.initialize(new ECGenParameterSpec("secp256r1"));
      KeyPair keys = generator.generateKeyPair();
      X500Name subject = new X500Name("CN=" + name);
      Instant now = Instant.now();
      byte[] certificate =
          new JcaX509v3CertificateBuilder(
                  subject,
                  new BigInteger(127, new SecureRandom()),
                  Date.from(now.minus(CLOCK_SKEW)),
                  Date.from(now.plus(validity)),
                  subject,
                  keys.getPublic())
              .addExtension(Extension.basicConstraints, true, new BasicConstraints(false))
              .build(new JcaContentSignerBuilder("SHA256withECDSA").build(keys.getPrivate()))
              .getEncoded();
      return new LinkCertificate(
          pem("CERTIFICATE", certificate), pem("PRIVATE KEY", keys.getPrivate().getEncoded()));
    } catch (GeneralSecurityException | OperatorCreationException | CertIOException e) {
      throw new IllegalStateException("this JVM cannot make a certificate: " + e, e);
    } catch (java.io.IOException e) {
      throw new IllegalStateException(e);
    }
  }

  /**
   * SHA-256 of the certificate, as hexadecimal digits, as {@code openssl x509 -fingerprint -sha256}
   * prints it, but without colons.
   *
   * @throws IllegalArgumentException if the certificate cannot be read
   */
  public String pin() {
    try {
      return pin(Pem.certificates(certificate).get(0));
    } catch (GeneralSecurityException e) {
      throw new IllegalArgumentException("not a certificate: " + e.getMessage(), e);
    }
  }

  /** Leaves out the key. */
  @Override
  public String toString() {
    return "LinkCertificate(" + pin() + ")";
  }

  static String pin(X509Certificate certificate) throws CertificateException {
    try {
      return HexFormat.of()
          .formatHex(MessageDigest.getInstance("SHA-256").digest(certificate.getEncoded()));
    } catch (CertificateEncodingException | NoSuchAlgorithmException e) {
      throw new CertificateException(e);
    }
  }

  /** Normalises a pin, which may have colons and capitals. */
  static String parsePin(String text) {
    String digits = text.replace(":", "").toLowerCase(Locale.ROOT);
    if (!digits.matches("[0-9a-f]{" + PIN_DIGITS + "}")) {
      throw new IllegalArgumentException(
          "remora.link.tls.pins: '%s' is not a SHA-256 digest in hexadecimal digits"
              .formatted(text));
    }
    return digits;
  }

  private static String pem(String what, byte[] der) {
    return "-----BEGIN %s-----\n%s\n-----END %s-----\n"
        .formatted(
            what,
            Base64.getMimeEncoder(64, "\n".getBytes(StandardCharsets.US_ASCII)).encodeToString(der),
            what);
  }
}
