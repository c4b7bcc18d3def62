// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.util.ByteString;
import com.google.protobuf.CodedOutputStream;
import com.google.protobuf.MessageLite;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;

/** gRPC's framing of messages: a flag that says whether they are compressed, and their length. */
final class GrpcFrames {

  /** Bytes before each message. */
  static final int PREFIX_BYTES = 5;

  private GrpcFrames() {}

  /** A message as it travels, written once. */
  static ByteString encode(MessageLite message) {
    int size = message.getSerializedSize();
    byte[] bytes = new byte[PREFIX_BYTES + size];
    ByteBuffer.wrap(bytes).put((byte) 0).putInt(size);
    CodedOutputStream out = CodedOutputStream.newInstance(bytes, PREFIX_BYTES, size);
    try {
      message.writeTo(out);
    } catch (IOException e) {
      throw new UncheckedIOException(e); // an array of the right size
    }
    return ByteString.fromArrayUnsafe(bytes);
  }
}
