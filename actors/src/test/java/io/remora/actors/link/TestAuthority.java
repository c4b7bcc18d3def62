// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.io.StringWriter;
import java.math.BigInteger;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Date;
import java.util.List;
import org.bouncycastle.asn1.x500.X500Name;
import org.bouncycastle.asn1.x509.BasicConstraints;
import org.bouncycastle.asn1.x509.Extension;
import org.bouncycastle.asn1.x509.GeneralName;
import org.bouncycastle.asn1.x509.GeneralNames;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.jcajce.JcaX509v3CertificateBuilder;
import org.bouncycastle.openssl.jcajce.JcaPEMWriter;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;

/** An authority that signs certificates, valid and invalid ones. */
public final class TestAuthority {

  private final X500Name name;
  private final KeyPair keys;
  private final String certificate;
  private long serial = 1;

  public TestAuthority(String name) throws Exception {
    this.name = new X500Name("CN=" + name);
    this.keys = keyPair();
    this.certificate = pem(builder(this.name, keys, true, Duration.ofDays(1)).build(signer()));
  }

  /** Its own certificate, in PEM format. */
  public String certificate() {
    return certificate;
  }

  /** A certificate for these names; IP addresses become address entries. */
  public LinkCertificate issue(String... names) throws Exception {
    return issue(Duration.ofHours(1), names);
  }

  /** The same with another validity; if it is negative, the certificate has expired. */
  public LinkCertificate issue(Duration validity, String... names) throws Exception {
    KeyPair own = keyPair();
    JcaX509v3CertificateBuilder builder =
        builder(new X500Name("CN=" + names[0]), own, false, validity);
    List<GeneralName> alternatives = new ArrayList<>();
    for (String alternative : names) {
      boolean address = alternative.matches("[0-9.]+");
      alternatives.add(
          new GeneralName(address ? GeneralName.iPAddress : GeneralName.dNSName, alternative));
    }
    builder.addExtension(
        Extension.subjectAlternativeName,
        false,
        new GeneralNames(alternatives.toArray(GeneralName[]::new)));
    return new LinkCertificate(pem(builder.build(signer())), privateKey(own));
  }

  private JcaX509v3CertificateBuilder builder(
      X500Name subject, KeyPair own, boolean authority, Duration validity) throws Exception {
    Instant now = Instant.now();
    JcaX509v3CertificateBuilder builder =
        new JcaX509v3CertificateBuilder(
            name,
            BigInteger.valueOf(serial++),
            Date.from(now.minus(Duration.ofDays(2))),
            Date.from(now.plus(validity)),
            subject,
            own.getPublic());
    builder.addExtension(Extension.basicConstraints, true, new BasicConstraints(authority));
    return builder;
  }

  private org.bouncycastle.operator.ContentSigner signer() throws Exception {
    return new JcaContentSignerBuilder("SHA256withRSA").build(keys.getPrivate());
  }

  private static KeyPair keyPair() throws Exception {
    KeyPairGenerator generator = KeyPairGenerator.getInstance("RSA");
    generator.initialize(2048);
    return generator.generateKeyPair();
  }

  private static String pem(X509CertificateHolder holder) throws Exception {
    return write(holder);
  }

  private static String privateKey(KeyPair pair) throws Exception {
    return write(pair.getPrivate()); // PKCS #1, as old tools write it
  }

  private static String write(Object object) throws Exception {
    StringWriter text = new StringWriter();
    try (JcaPEMWriter writer = new JcaPEMWriter(text)) {
      writer.writeObject(object);
    }
    return text.toString();
  }
}
