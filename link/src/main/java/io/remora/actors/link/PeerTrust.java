// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.net.Socket;
import java.security.cert.CertificateException;
import java.security.cert.CertificateExpiredException;
import java.security.cert.X509Certificate;
import java.util.Collection;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.X509ExtendedTrustManager;

/**
 * Decides which certificates are accepted. The settings may require a trusted authority, a pinned
 * digest and one of some names; a certificate must meet all requirements that are set. An expired
 * certificate is never accepted, even if it is pinned.
 */
final class PeerTrust extends X509ExtendedTrustManager {

  private static final int DNS_NAME = 2;
  private static final int IP_ADDRESS = 7;

  /** Null if only the pins decide. */
  private final X509ExtendedTrustManager authorities;

  /** Called for every refusal. */
  private volatile Consumer<CertificateException> onRefusal = refusal -> {};

  private final Set<String> pins;
  private final Set<String> names;

  /**
   * @throws IllegalArgumentException if a pin is not a SHA-256 fingerprint
   */
  PeerTrust(X509ExtendedTrustManager authorities, List<String> pins, List<String> names) {
    this.authorities = authorities;
    this.pins = pins.stream().map(LinkCertificate::parsePin).collect(Collectors.toSet());
    this.names =
        names.stream().map(name -> name.toLowerCase(Locale.ROOT)).collect(Collectors.toSet());
  }

  void onRefusal(Consumer<CertificateException> listener) {
    onRefusal = listener;
  }

  @Override
  public void checkClientTrusted(X509Certificate[] chain, String authType, SSLEngine engine)
      throws CertificateException {
    check(chain, () -> authorities.checkClientTrusted(chain, authType, engine));
  }

  @Override
  public void checkServerTrusted(X509Certificate[] chain, String authType, SSLEngine engine)
      throws CertificateException {
    check(chain, () -> authorities.checkServerTrusted(chain, authType, engine));
  }

  @Override
  public void checkClientTrusted(X509Certificate[] chain, String authType, Socket socket)
      throws CertificateException {
    check(chain, () -> authorities.checkClientTrusted(chain, authType, socket));
  }

  @Override
  public void checkServerTrusted(X509Certificate[] chain, String authType, Socket socket)
      throws CertificateException {
    check(chain, () -> authorities.checkServerTrusted(chain, authType, socket));
  }

  @Override
  public void checkClientTrusted(X509Certificate[] chain, String authType)
      throws CertificateException {
    check(chain, () -> authorities.checkClientTrusted(chain, authType));
  }

  @Override
  public void checkServerTrusted(X509Certificate[] chain, String authType)
      throws CertificateException {
    check(chain, () -> authorities.checkServerTrusted(chain, authType));
  }

  /** Empty, so that a peer shows its certificate even if it will be refused. */
  @Override
  public X509Certificate[] getAcceptedIssuers() {
    return new X509Certificate[0];
  }

  @FunctionalInterface
  private interface Check {
    void run() throws CertificateException;
  }

  private void check(X509Certificate[] chain, Check ofAuthorities) throws CertificateException {
    try {
      checkAll(chain, ofAuthorities);
    } catch (CertificateException e) {
      onRefusal.accept(e);
      throw e;
    }
  }

  private void checkAll(X509Certificate[] chain, Check ofAuthorities) throws CertificateException {
    X509Certificate certificate = chain[0];
    String who = certificate.getSubjectX500Principal().getName();
    try {
      certificate.checkValidity();
    } catch (CertificateExpiredException e) {
      throw new CertificateException(
          "that of %s expired at %s".formatted(who, certificate.getNotAfter().toInstant()), e);
    }
    String pin = LinkCertificate.pin(certificate);
    if (!pins.isEmpty() && !pins.contains(pin)) {
      throw new CertificateException(
          "that of %s, SHA-256 %s, is not listed in remora.link.tls.pins".formatted(who, pin));
    }
    if (authorities != null) {
      try {
        ofAuthorities.run();
      } catch (CertificateException e) {
        throw new CertificateException(
            "that of %s, issued by %s, is not accepted (remora.link.tls.trusted-certificates and peer-names): %s"
                .formatted(who, certificate.getIssuerX500Principal().getName(), e.getMessage()),
            e);
      }
    }
    if (!names.isEmpty()) {
      checkName(certificate, who);
    }
  }

  private void checkName(X509Certificate certificate, String who) throws CertificateException {
    Collection<List<?>> alternatives = certificate.getSubjectAlternativeNames();
    if (alternatives != null) {
      for (List<?> alternative : alternatives) {
        int kind = (Integer) alternative.get(0);
        if ((kind == DNS_NAME || kind == IP_ADDRESS)
            && names.contains(String.valueOf(alternative.get(1)).toLowerCase(Locale.ROOT))) {
          return;
        }
      }
    }
    throw new CertificateException(
        "that of %s has none of the names %s (remora.link.tls.peer-names) as a subject alternative name"
            .formatted(who, names));
  }
}
