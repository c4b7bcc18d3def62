// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import akka.actor.ActorSystem;
import akka.remote.artery.tcp.SSLEngineProvider;
import io.remora.actors.link.LinkTls;
import io.remora.runtime.RemoraException;
import java.security.cert.CertificateException;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLSession;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import scala.Option;

/**
 * Mutual TLS between the members of a cluster, with the certificates of {@code remora.link.tls}.
 * Akka creates one for each actor system, because of {@code remora-cluster-tls.conf}.
 */
public final class ArteryTls implements SSLEngineProvider {

  private static final Logger log = LoggerFactory.getLogger(ArteryTls.class);

  private final LinkTls tls;

  /**
   * @throws RemoraException if there are no certificates
   */
  public ArteryTls(ActorSystem system) {
    try {
      tls = LinkTls.from(system.settings().config()).onRefusal(ArteryTls::refused);
    } catch (IllegalArgumentException e) {
      throw new RemoraException("the cluster's TLS cannot be set up: " + e.getMessage(), e);
    }
    if (!tls.isConfigured()) {
      throw new RemoraException(
          "the cluster's TLS cannot be set up: there are no certificates. Set remora.link.tls"
              + " (certificate, private-key and trusted-certificates or pins; mode not off)");
    }
  }

  @Override
  public SSLEngine createServerSSLEngine(String hostname, int port) {
    return tls.engine(false, hostname, port);
  }

  @Override
  public SSLEngine createClientSSLEngine(String hostname, int port) {
    return tls.engine(true, hostname, port);
  }

  /** Does nothing: the handshake has checked everything. */
  @Override
  public Option<Throwable> verifyClientSession(String hostname, SSLSession session) {
    return Option.empty();
  }

  /** Does nothing: the handshake has checked everything. */
  @Override
  public Option<Throwable> verifyServerSession(String hostname, SSLSession session) {
    return Option.empty();
  }

  /** Logs a refusal. Akka reports it only to the dialling side, and without the reason. */
  private static void refused(CertificateException reason) {
    log.warn("Refused a certificate in the cluster: {}", reason.getMessage());
  }
}
