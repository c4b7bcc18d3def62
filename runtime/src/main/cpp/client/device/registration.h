// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Makes libtorch know the backend "remora".
#pragma once

namespace remora {

void register_backend();  // once; further calls do nothing

// Parts of it.
void register_hooks();
void register_engine();

}  // namespace remora
