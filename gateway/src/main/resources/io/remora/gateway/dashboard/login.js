// SPDX-License-Identifier: AGPL-3.0-or-later
// A link of `remora dashboard` has a ticket behind "#", which browsers send to no server.
"use strict";

const ticket = /^#ticket=([\w-]+)$/.exec(location.hash);
if (ticket) {
  history.replaceState(null, "", location.pathname);
  const field = document.getElementById("secret");
  field.value = ticket[1];
  field.form.submit();
}
