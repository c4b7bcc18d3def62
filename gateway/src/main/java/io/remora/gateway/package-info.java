// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The gateway: machines for programs that are not members of the Akka cluster, over gRPC. {@code
 * gateway.proto} is the contract; {@code docs/gateway.md} says how to run it.
 */
package io.remora.gateway;
