// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal.fake;

import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** Creates JSON Web Tokens (HS256) that expire soon, and verifies them. Thread-safe. */
final class Jwts {

  private static final Base64.Encoder ENCODER = Base64.getUrlEncoder().withoutPadding();
  private static final Pattern EXPIRY = Pattern.compile("\"exp\":(\\d{1,18})");

  private final byte[] key = new byte[32];

  Jwts() {
    new SecureRandom().nextBytes(key);
  }

  String issue(Duration life) {
    // Whole seconds, at least one.
    long expires = Instant.now().plus(life).plusMillis(999).getEpochSecond();
    String text =
        encoded("{\"alg\":\"HS256\",\"typ\":\"JWT\"}")
            + "."
            + encoded("{\"iss\":\"fake\",\"exp\":%d}".formatted(expires));
    return text + "." + signature(text);
  }

  /** The reason for refusing the token; empty if the token is valid. */
  String refusal(String token) {
    int end = token.lastIndexOf('.');
    if (end < 0
        || !MessageDigest.isEqual(
            signature(token.substring(0, end)).getBytes(StandardCharsets.US_ASCII),
            token.substring(end + 1).getBytes(StandardCharsets.UTF_8))) {
      return "the auth token is not one of this server's";
    }
    String claims =
        new String(
            Base64.getUrlDecoder().decode(token.substring(token.indexOf('.') + 1, end)),
            StandardCharsets.UTF_8);
    Matcher expiry = EXPIRY.matcher(claims);
    return expiry.find()
            && Instant.ofEpochSecond(Long.parseLong(expiry.group(1))).isAfter(Instant.now())
        ? ""
        : "the auth token has expired";
  }

  private String signature(String text) {
    try {
      Mac mac = Mac.getInstance("HmacSHA256");
      mac.init(new SecretKeySpec(key, "HmacSHA256"));
      return ENCODER.encodeToString(mac.doFinal(text.getBytes(StandardCharsets.UTF_8)));
    } catch (GeneralSecurityException e) {
      throw new IllegalStateException(e);
    }
  }

  private static String encoded(String json) {
    return ENCODER.encodeToString(json.getBytes(StandardCharsets.UTF_8));
  }
}
