// SPDX-License-Identifier: AGPL-3.0-or-later
// Shows what the gateway's stream of events says. Text becomes text nodes only, never HTML.
"use strict";

const byId = (id) => document.getElementById(id);

/** Makes an element with properties, attributes (names with "-", "data-" and "aria-" included) and children. */
function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name in made) {
      made[name] = value;
    } else {
      made.setAttribute(name, value);
    }
  }
  made.append(...children);
  return made;
}

/** Sets an element's text if it has changed, so that a reader's selection and place stay. */
function setText(target, text) {
  if (target.textContent !== text) {
    target.textContent = text;
  }
}

function setAttribute(target, name, value) {
  if (value === null) {
    target.removeAttribute(name);
  } else if (target.getAttribute(name) !== value) {
    target.setAttribute(name, value);
  }
}

/** Gives a parent one child for each item, in order; children of known keys stay, with their focus. */
function keyed(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = known.get(key);
    if (child) {
      known.delete(key);
    } else {
      child = make(item);
      child.dataset.key = key;
    }
    if (child === place) {
      place = place.nextElementSibling;
    } else {
      parent.insertBefore(child, place);
    }
    update(child, item);
  }
  for (const left of known.values()) {
    left.remove();
  }
}

// Numbers ------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const dollars = new Intl.NumberFormat("en", { style: "currency", currency: "USD", maximumFractionDigits: 4 });
const MISSING = "–";

const present = (value) => value !== null && value !== undefined;
const count = (value) => (present(value) ? whole.format(value) : MISSING);
const rate = (value) => (present(value) ? (Math.abs(value) < 1e4 ? three.format(value) : short.format(value)) : MISSING);

function bytes(value) {
  if (!present(value)) {
    return MISSING;
  }
  let size = value;
  let unit = 0;
  while (size >= 1024 && unit < 5) {
    size /= 1024;
    unit++;
  }
  return `${three.format(unit === 0 ? Math.round(size) : size)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

function seconds(value) {
  if (!present(value)) {
    return MISSING;
  }
  if (value === 0) {
    return "0 s";
  }
  if (value < 1e-3) {
    return `${three.format(value * 1e6)} µs`;
  }
  if (value < 1) {
    return `${three.format(value * 1e3)} ms`;
  }
  if (value < 120) {
    return `${three.format(value)} s`;
  }
  const minutes = Math.floor(value / 60);
  return minutes < 120 ? `${minutes} min ${Math.round(value % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const millis = (value) => (present(value) ? seconds(value / 1e3) : MISSING);
const perSecond = (format) => (value) => (present(value) ? `${format(value)}/s` : MISSING);
const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });

// What the stream has said -------------------------------------------------------------------------

const LINES = ["operations", "batches", "sent", "received", "roundTripMillis", "memory", "resident", "reserved", "inFlight"];
const LOG_LINES = 200;

const state = {
  reader: { needsLogin: false, signedIn: false, hasActions: false, mayAct: false },
  sample: null,
  /** The plots' points: times in seconds, and arrays of the same length. "" is all machines together. */
  times: [],
  series: new Map(),
  keep: 300,
  logs: new Map(),
  errors: [],
  busy: new Map(),
};

const emptySeries = (length) => ({
  ...Object.fromEntries(LINES.map((line) => [line, new Array(length).fill(null)])),
  waits: {},
});

function onHistory(history) {
  state.times = history.times.map((time) => time / 1e3);
  state.keep = history.keep;
  state.series = new Map([["", history.total], ...Object.entries(history.machines)]);
}

function dropOldest(number) {
  const cut = (array) => array.splice(0, number);
  cut(state.times);
  for (const lines of state.series.values()) {
    LINES.forEach((line) => cut(lines[line]));
    Object.values(lines.waits).forEach(cut);
  }
}

function addPoint(name, point) {
  const before = state.times.length - 1;
  const lines = state.series.get(name) ?? emptySeries(before);
  state.series.set(name, lines);
  for (const line of LINES) {
    lines[line].push(point === null ? null : point[line]);
  }
  const waits = point === null ? {} : point.waits;
  for (const cause of new Set([...Object.keys(lines.waits), ...Object.keys(waits)])) {
    lines.waits[cause] ??= new Array(before).fill(null);
    lines.waits[cause].push(waits[cause] ?? null);
  }
}

function onSample(sample) {
  announceChanges(state.sample, sample);
  state.sample = sample;
  state.times.push(sample.time / 1e3);
  const points = new Map(sample.machines.map((machine) => [machine.name, machine.point]));
  points.set("", sample.total);
  for (const name of new Set([...state.series.keys(), ...points.keys()])) {
    addPoint(name, points.get(name) ?? null);
  }
  if (state.times.length > state.keep) {
    dropOldest(state.times.length - state.keep);
    for (const [name, lines] of state.series) {
      if (!points.has(name) && lines.operations.every((value) => value === null)) {
        state.series.delete(name);
      }
    }
  }
  show();
}

function onLines(lines) {
  const add = (list, line) => {
    list.push(line);
    if (list.length > LOG_LINES) {
      list.shift();
    }
  };
  for (const line of lines) {
    if (line.machine) {
      if (!state.logs.has(line.machine)) {
        state.logs.set(line.machine, []);
      }
      add(state.logs.get(line.machine), line);
    }
    if (line.level === "WARN" || line.level === "ERROR") {
      add(state.errors, line);
    }
  }
  showLogs();
}

/** Tells readers who do not see the page which states have changed. */
function announceChanges(before, now) {
  if (!before) {
    return;
  }
  const old = new Map(before.machines.map((machine) => [machine.name, machine.state]));
  const news = now.machines
    .filter((machine) => old.get(machine.name) !== machine.state)
    .map((machine) => `${machine.name} is ${stateWord(machine)}`);
  const names = new Set(now.machines.map((machine) => machine.name));
  news.push(...[...old.keys()].filter((name) => !names.has(name)).map((name) => `${name} is closed`));
  if (news.length > 0) {
    byId("changes").textContent = news.join(". ");
  }
}

// The page -----------------------------------------------------------------------------------------

const KINDS = { READY: "good", FAILED: "bad", PAUSED: "idle" };
const kindOf = (machine) => (machine.silent ? "wait" : KINDS[machine.state] ?? "wait");
const stateWord = (machine) => machine.state.toLowerCase() + (machine.silent ? ", no answer" : "");

/** The machine whose details are shown: that of the address, or else the only one; "" for none. */
function selected() {
  const named = /^#machine=(.*)$/.exec(location.hash);
  if (named) {
    return decodeURIComponent(named[1]);
  }
  return state.sample && state.sample.machines.length === 1 ? state.sample.machines[0].name : "";
}

/** Whose plots are shown. */
function scope() {
  const name = selected();
  return state.series.has(name) ? name : "";
}

function show() {
  if (!state.sample) {
    return;
  }
  showTiles();
  showMachines();
  showScope();
  showPlots();
  showDetail();
  showCluster();
}

function roundTripWords(point, direct) {
  if (present(point.roundTripMillis)) {
    return "mean of the last second";
  }
  return direct > 0 ? "not measured on the way straight to the node" : "none now";
}

function showTiles() {
  const { sample } = state;
  const machines = sample.machines;
  const sum = (figure) => machines.reduce((all, machine) => all + (machine.figures[figure] ?? 0), 0);
  const states = new Map();
  machines.forEach((machine) => states.set(machine.state, (states.get(machine.state) ?? 0) + 1));
  const point = sample.total;
  const tiles = [
    ["Machines", count(machines.length), [...states].map(([name, n]) => `${n} ${name.toLowerCase()}`).join(", ") || "none open"],
    ["Sessions", count(sum("sessions")), `${count(sample.sessions)} through this gateway`],
    ["Operations", perSecond(rate)(point.operations), `${short.format(sum("operations.executed"))} in all, ${count(sum("operations.failed"))} failed`],
    ["Batches", perSecond(rate)(point.batches), `${short.format(sum("batches.executed"))} in all, ${count(sum("batches.in.flight"))} in flight`],
    ["Sent to nodes", perSecond(bytes)(point.sent), `${bytes(sum("batch.bytes"))} in all; received ${bytes(sum("value.bytes"))}`],
    ["Round trip", millis(point.roundTripMillis), roundTripWords(point, sum("direct"))],
    ["Memory", bytes(point.memory), `of ${count(sum("storages"))} storages`],
  ];
  if (machines.some((machine) => present(machine.figures["cost.dollars"]))) {
    tiles.push(["Cost so far", dollars.format(sum("cost.dollars")), `${seconds(sum("gpu.seconds"))} of GPUs`]);
  }
  keyed(
    byId("tiles"),
    tiles,
    ([title]) => title,
    ([title]) => {
      const value = element("dd", { className: "value" });
      return element("div", {}, element("dt", {}, title), value, element("dd", { className: "more" }));
    },
    (tile, [, value, more]) => {
      setText(tile.children[1], value);
      setText(tile.children[2], more);
    },
  );
}

function showMachines() {
  const { machines } = state.sample;
  byId("no-machines").hidden = machines.length > 0;
  const table = byId("machine-table");
  table.hidden = machines.length === 0;
  const hasCost = machines.some((machine) => present(machine.figures["cost.dollars"]));
  table.querySelector("th.cost").hidden = !hasCost;
  table.querySelector("th.actions").hidden = !state.reader.mayAct;
  const focused = document.activeElement;
  keyed(table.tBodies[0], machines, (machine) => machine.name, makeMachine, (row, machine) => updateMachine(row, machine, hasCost));
  if (focused && focused !== document.body && !focused.isConnected) {
    byId("machines").focus(); // the row that had the focus is gone
  }
}

function makeMachine(machine) {
  const link = element("a", { href: `#machine=${encodeURIComponent(machine.name)}` }, machine.name);
  const reason = element("span", { className: "reason" });
  const cell = (label, kind) => element("td", { className: kind, "data-label": label });
  const buttons = ["pause", "resume", "stop"].map((action) =>
    element(
      "button",
      {
        type: "button",
        className: action === "stop" ? "danger" : "",
        "data-action": action,
        "aria-label": `${ACTIONS[action].verb} ${machine.name}`,
        onclick: () => ask(action, machine.name),
      },
      ACTIONS[action].verb,
    ),
  );
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, link, reason),
    element("td", { "data-label": "State" }, element("span", { className: "badge" })),
    cell("Sessions", "n"),
    cell("Operations/s", "n"),
    cell("Round trip", "n"),
    element("td", { className: "n", "data-label": "Memory" }, element("span"), element("small")),
    cell("Cost", "n"),
    element("td", { className: "actions" }, ...buttons),
  );
}

function updateMachine(row, machine, hasCost) {
  const [name, condition, sessions, operations, roundTrip, memory, cost, actions] = row.children;
  setAttribute(row, "data-kind", kindOf(machine));
  setAttribute(row, "aria-current", selected() === machine.name ? "true" : null);
  setText(name.children[1], `${machine.provider}: ${machine.reason}`);
  setAttribute(condition.firstChild, "data-kind", kindOf(machine));
  setText(condition.firstChild, stateWord(machine));
  setText(sessions, count(machine.figures.sessions));
  setText(operations, rate(machine.point.operations));
  setText(roundTrip, millis(machine.point.roundTripMillis));
  setText(memory.firstChild, bytes(machine.figures["storage.bytes"]));
  const all = machine.devices.reduce((sum, device) => sum + device.memory, 0);
  setText(memory.lastChild, all > 0 ? `of ${bytes(all)}` : "");
  cost.hidden = !hasCost;
  setText(cost, present(machine.figures["cost.dollars"]) ? dollars.format(machine.figures["cost.dollars"]) : MISSING);
  actions.hidden = !state.reader.mayAct;
  const busy = state.busy.get(machine.name);
  for (const button of actions.children) {
    const action = button.dataset.action;
    button.hidden = action === "resume" ? machine.state !== "PAUSED" : action === "pause" && machine.state !== "READY";
    button.disabled = busy !== undefined;
    setText(button, busy === action ? ACTIONS[action].doing : ACTIONS[action].verb);
  }
}

function showScope() {
  const select = byId("scope");
  const names = ["", ...state.sample.machines.map((machine) => machine.name)];
  const gone = selected();
  if (!names.includes(gone) && state.series.has(gone)) {
    names.push(gone);
  }
  keyed(select, names, (name) => name, (name) => element("option", { value: name }, name || "all machines"), () => {});
  if (select !== document.activeElement && select.value !== scope()) {
    select.value = scope();
  }
}

/** A device, and what the node uses of its memory. */
function deviceWords(machine, device, i) {
  const figure = (name) => machine.figures[`device.${i}.${name}.bytes`];
  const use = present(figure("reserved"))
    ? `: ${bytes(figure("allocated"))} in tensors, at most ${bytes(figure("peak"))}; ${bytes(figure("reserved"))} taken from the device`
    : "";
  return `${device.name} (${device.kind}${device.memory ? `, ${bytes(device.memory)}` : ""})${use}`;
}

const FACTS = [
  ["State", (machine) => `${stateWord(machine)}: ${machine.reason}`],
  ["Provider", (machine) => machine.provider],
  ["Devices", (machine) => machine.devices.map((device, i) => deviceWords(machine, device, i)).join("; ") || MISSING],
  ["Node", (machine) => machine.node || MISSING],
  ["libtorch", (machine) => machine.libtorch || MISSING],
];

/** The figures' groups: title, and for each figure its name, its words and its format. */
const GROUPS = [
  ["Work", [
    ["operations", "operations submitted", count], ["operations.executed", "operations executed", count],
    ["operations.failed", "operations failed", count], ["batches", "batches submitted", count],
    ["batches.executed", "batches executed", count], ["batches.in.flight", "batches in flight", count],
    ["batches.waiting", "batches waiting", count],
  ]],
  ["Data", [
    ["batch.bytes", "sent to the node", bytes], ["value.bytes", "received", bytes],
    ["in.flight.bytes", "in flight", bytes], ["batches.waiting.bytes", "waiting to be sent", bytes],
    ["unreceived.bytes", "kept for programs", bytes],
  ]],
  ["Memory", [["node.resident.bytes", "node's process", bytes]]],
  ["Connections", [
    ["sessions", "sessions", count], ["direct", "straight to the node", count], ["streams", "streams so far", count],
    ["round.trip.seconds", "mean round trip", (value) => seconds(value || null)], ["round.trips", "round trips measured", count],
    ["reconnections", "reconnections", count], ["redials", "attempts for them", count],
  ]],
  ["Storages", [
    ["storages", "live", count], ["storages.lazy", "without memory", count], ["storages.realized", "with memory", count],
    ["storages.offloaded", "saved", count], ["storage.bytes", "memory", bytes], ["storage.actors", "with an actor", count],
  ]],
  ["Recovery", [
    ["checkpoints", "checkpoints", count], ["checkpoint.seconds", "time for them", seconds],
    ["checkpoint.bytes", "last checkpoint", bytes], ["recoveries", "recoveries", count],
    ["recovery.seconds", "time for them", seconds], ["recovery.log.bytes", "log of batches", bytes],
    ["recovery.log.disk.bytes", "of that on disk", bytes],
  ]],
  ["Life", [
    ["pauses", "pauses", count], ["moves", "moves", count], ["move.seconds", "time for moves", seconds],
    ["move.wait.seconds", "batches waited", seconds], ["devices", "devices", count], ["compute.threads", "compute threads", count],
    ["gpu.seconds", "GPUs' time", seconds], ["cost.dollars", "cost so far", (value) => dollars.format(value)],
  ]],
];
const GROUPED = new Set(GROUPS.flatMap(([, figures]) => figures.map(([name]) => name)));

function definitions(list, items) {
  keyed(
    list,
    items,
    ([name]) => name,
    ([, words]) => element("div", {}, element("dt", {}, words), element("dd")),
    (line, [, , value]) => setText(line.lastChild, value),
  );
}

function showDetail() {
  const name = selected();
  const machine = state.sample.machines.find((each) => each.name === name);
  const detail = byId("detail");
  detail.hidden = !machine && !state.logs.has(name);
  if (detail.hidden) {
    return;
  }
  setText(byId("detail-title"), machine ? `Machine ${name}` : `Machine ${name} (closed)`);
  definitions(byId("facts"), machine ? FACTS.map(([title, value]) => [title, title, value(machine)]) : []);
  const figures = machine ? machine.figures : {};
  const others = Object.keys(figures).filter((figure) => !GROUPED.has(figure) && !/^(waits|device)[.]/.test(figure));
  const groups = [...GROUPS, ["More", others.map((figure) => [figure, figure, rate])]]
    .map(([title, lines]) => [title, lines.filter(([figure]) => present(figures[figure]))])
    .filter(([, lines]) => lines.length > 0);
  keyed(
    byId("figures"),
    groups,
    ([title]) => title,
    ([title]) => element("div", {}, element("h4", {}, title), element("dl")),
    (group, [, lines]) => definitions(group.lastChild, lines.map(([figure, words, format]) => [figure, words, format(figures[figure])])),
  );
  const waits = machine ? machine.waits : [];
  byId("waits").hidden = waits.length === 0;
  rows(byId("waits"), waits, (wait) => wait.cause, (wait) => [
    wait.cause, count(wait.count), seconds(wait.seconds), seconds(machine.point.waits[wait.cause] ?? null),
  ]);
  const lines = machine ? machine.lines : [];
  byId("wait-lines").hidden = lines.length === 0;
  rows(byId("wait-lines"), lines, lineKey, (line) => [
    line.line || "no line of the program", `${line.subject} (${line.cause})`, count(line.count), seconds(line.seconds),
  ]);
  const sessions = machine ? machine.sessions : [];
  byId("sessions").hidden = sessions.length === 0;
  rows(byId("sessions"), sessions, (session) => session.number, (session) => [
    session.number, count(session.figures.storages), bytes(session.figures["storage.bytes"]), bytes(session.figures["in.flight.bytes"]),
  ]);
}

const lineKey = (line) => JSON.stringify([line.cause, line.subject, line.line]);

/** Fills a table whose first column names the row and whose other columns are numbers. */
function rows(holder, items, keyOf, texts) {
  keyed(
    holder.querySelector("tbody"),
    items,
    keyOf,
    (item) => element("tr", {}, ...texts(item).map((text, i) => (i === 0 ? element("th", { scope: "row" }) : element("td", { className: "n" })))),
    (row, item) => texts(item).forEach((text, i) => setText(row.children[i], text)),
  );
}

function showCluster() {
  const { sample } = state;
  keyed(
    byId("member-table").tBodies[0],
    sample.members,
    (member) => member.address,
    () => element("tr", {}, element("th", { scope: "row" }), element("td", {}, element("span", { className: "badge" }))),
    (row, member) => {
      setText(row.children[0], member.address + (member.self ? " (this gateway)" : ""));
      const badge = row.children[1].firstChild;
      const up = member.reachable && member.status.toLowerCase() === "up";
      setAttribute(badge, "data-kind", up ? "good" : member.reachable ? "wait" : "bad");
      setText(badge, member.reachable ? member.status.toLowerCase() : `${member.status.toLowerCase()}, unreachable`);
    },
  );
  definitions(byId("gateway"), [
    ["sessions", "Sessions of this gateway", count(sample.sessions)],
    ["connections", "Its connections", count(sample.connections)],
    ["unreceived", "Bytes kept for programs", bytes(sample.unreceivedBytes)],
  ]);
}

function showLogs() {
  const name = selected();
  fillLog(byId("log"), state.logs.get(name) ?? [], false);
  fillLog(byId("errors"), state.errors, true);
  byId("errors").hidden = state.errors.length === 0;
  byId("no-errors").hidden = state.errors.length > 0;
}

/** Shows lines, the newest at the end, and stays there if that is where the reader is. */
function fillLog(list, lines, withMachine) {
  if (list.shown === lines && list.last === lines[lines.length - 1]) {
    return;
  }
  const atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 8 || list.shown !== lines;
  list.replaceChildren(
    ...lines.map((line) =>
      element(
        "li",
        { "data-level": line.level },
        element("time", { dateTime: new Date(line.time).toISOString() }, clock(line.time)),
        element("b", {}, withMachine ? `${line.level} ${line.machine || line.source}` : `${line.level} ${line.source}`),
        line.text,
      ),
    ),
  );
  list.shown = lines;
  list.last = lines[lines.length - 1];
  if (atEnd) {
    list.scrollTop = list.scrollHeight;
  }
}

// Plots --------------------------------------------------------------------------------------------

/** Titles, and for each line its key, its words and its format. */
const PLOTS = [
  ["Operations a second", [["operations", "executed", rate]]],
  ["Batches a second", [["batches", "executed", rate]]],
  ["Bytes a second", [["sent", "sent", bytes], ["received", "received", bytes]]],
  ["Round trip", [["roundTripMillis", "mean", millis]]],
  ["Memory of storages", [["memory", "storages", bytes]]],
  ["Memory of nodes", [["resident", "processes", bytes], ["reserved", "allocators of GPUs", bytes]]],
  ["Bytes in flight", [["inFlight", "in flight", bytes]]],
];
const COLOURS = 8;
/** Steps of axes of bytes. */
const BINARY = Array.from({ length: 50 }, (unused, i) => 2 ** i);
const plots = new Map();

/** The plots that have something to show. */
function wantedPlots(lines) {
  const causes = Object.keys(lines.waits).sort();
  const wanted = PLOTS.map(([title, parts]) => ({
    title,
    parts: parts.map(([line, words, format]) => ({ words, format, values: lines[line] })).filter((part) => part.values.some(present)),
  }));
  wanted.push({
    title: "Waits, of a second",
    named: true, // also where there is one
    parts: causes.map((cause) => ({ words: cause, format: seconds, values: lines.waits[cause] })),
  });
  return wanted.filter(({ parts }) => parts.length > 0);
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function makePlot({ title, parts, named }) {
  const now = element("span", { className: "now" });
  const area = element("div", { className: "plot", tabIndex: 0, role: "img" });
  const figure = element("figure", {}, element("figcaption", {}, element("h3", {}, title), now), area);
  byId("plots").append(figure);
  const plot = { figure, area, now, title, parts, named };
  plot.chart = new uPlot(
    {
      width: Math.max(area.clientWidth, 200),
      height: 150,
      legend: { show: false },
      cursor: { sync: { key: "remora" }, drag: { x: false, y: false }, y: false },
      scales: {
        x: { range: () => [Date.now() / 1e3 - state.keep, Date.now() / 1e3] },
        y: { range: (chart, low, high) => [0, high > 0 ? high * 1.1 : 1] },
      },
      axes: [
        {
          stroke: colour("--quiet"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, size: 26, space: 70,
          incrs: [1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600],
          values: (chart, ticks) => ticks.map((tick) => clock(tick * 1e3).slice(0, 5) + (tick % 60 ? clock(tick * 1e3).slice(5) : "")),
        },
        {
          stroke: colour("--quiet"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, size: 68, space: 32,
          ...(parts[0].format === bytes ? { incrs: BINARY } : {}),
          values: (chart, ticks) => ticks.map((tick) => (tick === 0 ? "0" : plot.parts[0].format(tick))),
        },
      ],
      series: [
        {},
        ...parts.map((part, i) => ({
          stroke: colour(`--c${(i % COLOURS) + 1}`),
          fill: parts.length === 1 ? `${colour("--c1")}22` : undefined,
          width: 1.6,
          points: { show: false },
        })),
      ],
      hooks: { setCursor: [() => captionOf(plot)] },
    },
    [[], ...parts.map(() => [])],
    area,
  );
  area.addEventListener("keydown", (event) => moveCursor(plot, event));
  area.addEventListener("blur", () => plot.chart.setCursor({ left: -10, top: -10 }));
  plots.set(title, plot);
}

/** The values under the cursor, or else the latest. */
function captionOf(plot) {
  const { idx } = plot.chart.cursor;
  const last = state.times.length - 1;
  const at = present(idx) && idx <= last ? idx : last;
  const values = plot.parts.map((part) => part.format(part.values[at]));
  const keys = plot.named || plot.parts.length > 1;
  const texts = values.map((value, i) => (keys ? `${plot.parts[i].words} ${value}` : value));
  if (at !== last) {
    texts.unshift(clock(state.times[at] * 1e3));
  }
  const first = at === last ? 0 : 1;
  keyed(
    plot.now,
    texts,
    (text) => String(texts.indexOf(text)),
    () => element("span"),
    (span, text) => {
      const i = texts.indexOf(text) - first;
      span.className = keys && i >= 0 ? `key k${(i % COLOURS) + 1}` : "";
      setText(span, text + (keys || i >= 0 ? "" : " "));
    },
  );
  const highest = plot.parts.map((part) => part.values.reduce((high, value) => Math.max(high, value ?? 0), 0));
  setAttribute(
    plot.area,
    "aria-label",
    `${plot.title}. ` +
      plot.parts.map((part, i) => `${part.words}: ${values[i]}, highest ${part.format(highest[i])}`).join(". "),
  );
}

function moveCursor(plot, event) {
  const last = state.times.length - 1;
  const from = present(plot.chart.cursor.idx) ? plot.chart.cursor.idx : last;
  const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key];
  if (event.key === "Escape") {
    plot.chart.setCursor({ left: -10, top: -10 });
  } else if (to !== undefined) {
    event.preventDefault();
    const left = plot.chart.valToPos(state.times[Math.max(0, Math.min(last, to))], "x");
    plot.chart.setCursor({ left, top: 10 });
  }
}

function showPlots() {
  const lines = state.series.get(scope());
  if (!lines) {
    return;
  }
  const wanted = wantedPlots(lines);
  const shape = (title, parts) => `${title}: ${parts.map((part) => part.words).join()}`;
  const shown = [...plots.values()].map((plot) => shape(plot.title, plot.parts)).join("; ");
  if (shown !== wanted.map((want) => shape(want.title, want.parts)).join("; ")) {
    [...plots.values()].forEach(removePlot); // a plot or a cause of waits has come or gone
    wanted.forEach(makePlot);
  }
  for (const want of wanted) {
    const plot = plots.get(want.title);
    plot.parts = want.parts;
    plot.chart.setData([state.times, ...want.parts.map((part) => part.values)]);
    captionOf(plot);
  }
}

function removePlot(plot) {
  plot.chart.destroy();
  plot.figure.remove();
  plots.delete(plot.title);
}

function resizePlots() {
  for (const plot of plots.values()) {
    const width = plot.area.clientWidth;
    if (width > 0 && width !== plot.chart.width) {
      plot.chart.setSize({ width, height: 150 });
    }
  }
}

// Actions ------------------------------------------------------------------------------------------

const ACTIONS = {
  pause: {
    verb: "Pause",
    doing: "Pausing…",
    text: "Its tensors are saved and its node is given back. Programs wait from their next operation on, which resumes it.",
  },
  resume: { verb: "Resume", doing: "Resuming…", text: "Its provider starts a node, which may cost money, and its tensors are restored." },
  stop: {
    verb: "Stop",
    doing: "Stopping…",
    text: "Its node ends and its tensors are lost. Programs that use it fail with MachineStateException.",
  },
};

async function ask(action, name) {
  const dialog = byId("confirm");
  const { verb, text } = ACTIONS[action];
  byId("confirm-title").textContent = `${verb} machine ${name}?`;
  byId("confirm-text").textContent = text;
  const yes = byId("confirm-yes");
  yes.textContent = `${verb} ${name}`;
  yes.classList.toggle("danger", action === "stop");
  dialog.returnValue = "cancel";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  if (dialog.returnValue === "yes") {
    await act(action, name);
  }
}

async function act(action, name) {
  const notice = byId("notice");
  notice.hidden = true;
  state.busy.set(name, action);
  show();
  try {
    const answer = await fetch(`machines/${encodeURIComponent(name)}/${action}`, {
      method: "POST",
      headers: { "X-Remora-Dashboard": "1" },
    });
    if (!answer.ok) {
      throw new Error((await answer.json()).error);
    }
  } catch (failure) {
    notice.textContent = `${ACTIONS[action].verb} ${name} failed: ${failure.message}`;
    notice.hidden = false;
  } finally {
    state.busy.delete(name);
    show();
  }
}

// The stream ---------------------------------------------------------------------------------------

function setConnection(kind, text) {
  const badge = byId("connection");
  setAttribute(badge, "data-kind", kind);
  setText(badge, text);
}

function connect() {
  const stream = new EventSource("events");
  const on = (name, handle) => stream.addEventListener(name, (event) => handle(JSON.parse(event.data)));
  on("reader", (reader) => {
    state.reader = reader;
    byId("sign-in").hidden = reader.mayAct || !reader.hasActions;
    byId("may-act").hidden = !reader.mayAct;
    byId("sign-out").hidden = !reader.signedIn;
  });
  on("history", (history) => {
    state.logs.clear();
    state.errors = [];
    onHistory(history);
  });
  on("sample", onSample);
  on("lines", onLines);
  stream.onopen = () => setConnection("good", "live");
  stream.onerror = async () => {
    if (stream.readyState === EventSource.CLOSED) {
      stream.close();
      setConnection("bad", "no connection");
      // The login has ended, or the gateway is another one now; or it does not answer.
      const answer = await fetch("events", { method: "HEAD" }).catch(() => null);
      if (answer && answer.status === 401) {
        location.assign("login");
      } else {
        setTimeout(connect, 2000);
      }
    } else {
      setConnection("bad", "connecting again");
    }
  };
}

byId("address").textContent = location.host;
byId("scope").addEventListener("change", (event) => {
  location.hash = event.target.value ? `machine=${encodeURIComponent(event.target.value)}` : "all";
});
addEventListener("hashchange", () => {
  show();
  showLogs();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  [...plots.values()].forEach(removePlot);
  showPlots();
});
new ResizeObserver(resizePlots).observe(byId("plots"));
connect();
