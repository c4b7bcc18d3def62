// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.util.ByteString;
import com.google.protobuf.CodedOutputStream;
import com.google.protobuf.MessageLite;
import com.google.protobuf.WireFormat;
import io.remora.gateway.v1.ServerFrame;
import io.remora.gateway.v1.Value;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;

/** gRPC's framing of messages: a compression flag and the length. */
final class GrpcFrames {

  /** Bytes before each message. */
  static final int PREFIX_BYTES = 5;

  private GrpcFrames() {}

  /** A message in gRPC's framing, encoded in one pass. */
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

  /** A ServerFrame with bytes of a value, which are copied only once. */
  static ByteString value(long index, long request, long offset, ByteBuffer data) {
    int dataBytes = data.remaining();
    int valueBytes =
        CodedOutputStream.computeInt64Size(Value.REQUEST_FIELD_NUMBER, request)
            + CodedOutputStream.computeUInt64Size(Value.OFFSET_FIELD_NUMBER, offset)
            + CodedOutputStream.computeTagSize(Value.DATA_FIELD_NUMBER)
            + CodedOutputStream.computeUInt32SizeNoTag(dataBytes)
            + dataBytes;
    int size =
        CodedOutputStream.computeUInt64Size(ServerFrame.INDEX_FIELD_NUMBER, index)
            + CodedOutputStream.computeTagSize(ServerFrame.VALUE_FIELD_NUMBER)
            + CodedOutputStream.computeUInt32SizeNoTag(valueBytes)
            + valueBytes;
    byte[] bytes = new byte[PREFIX_BYTES + size];
    ByteBuffer.wrap(bytes).put((byte) 0).putInt(size);
    CodedOutputStream out = CodedOutputStream.newInstance(bytes, PREFIX_BYTES, size);
    try {
      out.writeUInt64(ServerFrame.INDEX_FIELD_NUMBER, index);
      out.writeTag(ServerFrame.VALUE_FIELD_NUMBER, WireFormat.WIRETYPE_LENGTH_DELIMITED);
      out.writeUInt32NoTag(valueBytes);
      out.writeInt64(Value.REQUEST_FIELD_NUMBER, request);
      out.writeUInt64(Value.OFFSET_FIELD_NUMBER, offset);
      out.writeTag(Value.DATA_FIELD_NUMBER, WireFormat.WIRETYPE_LENGTH_DELIMITED);
      out.writeUInt32NoTag(dataBytes);
    } catch (IOException e) {
      throw new UncheckedIOException(e); // an array of the right size
    }
    data.get(bytes, bytes.length - dataBytes, dataBytes);
    return ByteString.fromArrayUnsafe(bytes);
  }
}
