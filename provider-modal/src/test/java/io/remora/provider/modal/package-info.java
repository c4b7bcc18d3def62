// SPDX-License-Identifier: AGPL-3.0-or-later
/** Tests of the Modal provider, against servers of their own. */
package io.remora.provider.modal;
