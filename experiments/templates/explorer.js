// The view is what the controls say. It is drawn from the data in the page, and written to the
// address. Names of cells come from files: they are set as text, and escaped for plotly.
"use strict";

const element = (id) => document.getElementById(id);
const MINUS = "−";

// ----- the data ----------------------------------------------------------------------------------

// Numbers of a curve: the letter of their type and their bytes; NaN is an empty field.
function unpacked(text) {
  const bytes = Uint8Array.from(atob(text.slice(1)), (sign) => sign.charCodeAt(0));
  const numbers = text[0] === "f" ? new Float32Array(bytes.buffer) : new Float64Array(bytes.buffer);
  return Array.from(numbers, (value) => (Number.isNaN(value) ? null : value));
}

// JSON has no infinities.
const finiteOrNot = (value) => (typeof value === "string" ? Number(value.replace("inf", "Infinity")) : value);

function decoded(data) {
  const curve = ({ x, value, low, high, slope }) => ({
    x: data.grids[x], value: unpacked(value), low: low && unpacked(low), high: high && unpacked(high), slope,
  });
  for (const setting of data.settings) {
    for (const name of ["gradient", "lyapunov"]) if (setting[name]) setting[name] = curve(setting[name]);
    for (const name of Object.keys(setting.theories)) setting.theories[name] = curve(setting.theories[name]);
    for (const name of ["slope", "half-life"]) setting[name] = setting[name]?.map(finiteOrNot) ?? [null, null, null];
  }
  return data;
}

const DATA = decoded(JSON.parse(element("data").textContent));
const sorted = (values) => [...new Set(values)].sort((a, b) => a - b);
const nearest = (values, wanted) => values.reduce((best, value) => (Math.abs(value - wanted) < Math.abs(best - wanted) ? value : best));
const isNumber = (value) => value !== null && Number.isFinite(value);

// What exists of a number of settings, such as their gains, under an initialisation.
function choices(name, scheme) {
  const under = DATA.settings.filter((setting) => setting.scheme === scheme);
  return sorted(under.map((setting) => setting[name]).filter((value) => value !== null));
}

// What a setting does not have, it has for every choice.
const fits = (own, chosen) => own === null || own === chosen;

function settingOf(cell, view, length = view.length) {
  return DATA.settings.find((setting) =>
    setting.cell === cell && setting.scheme === view.scheme && setting.length === length
    && fits(setting.gain, view.gain) && fits(setting.forget_bias, view.bias));
}

// Exponents are those of the network, whatever the length; they stand with the longest.
const spectrumOf = (cell, view) => settingOf(cell, view, DATA.lengths.at(-1))?.lyapunov;

const nameOf = (list, name) => list.find((one) => one.name === name)?.label ?? name;

// Which of the choices a cell was not measured with; empty if it was.
function lack(cell, view) {
  let left = DATA.settings.filter((setting) => setting.cell === cell);
  const own = [...new Set(left.map((setting) => nameOf(DATA.schemes, setting.scheme)))];
  const tests = [
    [(setting) => setting.scheme === view.scheme, `measured only with: ${own.join(", ")}`],
    [(setting) => fits(setting.gain, view.gain), `not at gain ${view.gain}`],
    [(setting) => fits(setting.forget_bias, view.bias), `not at forget bias ${view.bias}`],
    [(setting) => setting.length === view.length, `not at length ${view.length}`],
    [(setting) => setting.gradient, "no gradient"],
  ];
  for (const [test, words] of tests) {
    left = left.filter(test);
    if (!left.length) return words;
  }
  return "";
}

// The cells of a view that have data, with their looks and settings.
function curvesOf(view) {
  return DATA.cells
    .filter((cell) => view.cells.includes(cell.name) && !lack(cell.name, view))
    .map((cell) => ({ cell, setting: settingOf(cell.name, view), spectrum: spectrumOf(cell.name, view) }));
}

const lagsOf = (curves) => sorted(curves.flatMap(({ setting }) => setting.gradient.x));

function valueAt(curve, x) {
  const index = curve?.x.indexOf(x) ?? -1;
  const at = (list) => (index < 0 || !list ? null : list[index]);
  return { value: at(curve?.value), low: at(curve?.low), high: at(curve?.high) };
}

// ----- the view and its address ------------------------------------------------------------------

const FIRST_CELLS = 6; // drawn at first

function defaultView() {
  const { name: scheme } = DATA.schemes.find(({ name }) => name !== "own") ?? DATA.schemes[0];
  const ways = (name) => choices(name, scheme);
  const view = {
    scheme,
    gain: ways("gain").length ? nearest(ways("gain"), 1) : null,
    bias: ways("forget_bias").length ? nearest(ways("forget_bias"), 0) : null,
    length: DATA.lengths.at(-1),
    log: false,
    band: true,
    theory: true,
  };
  const names = DATA.cells.map((cell) => cell.name);
  view.cells = names.filter((name) => !lack(name, view)).slice(0, FIRST_CELLS);
  return { ...view, lag: view.length / 2 };
}

// The nearest view that there is. Gain and bias are kept where they mean nothing.
function settled(view) {
  const near = (name, wanted) => {
    const own = choices(name, view.scheme);
    const every = own.length ? own : sorted(DATA.settings.map((setting) => setting[name]).filter((value) => value !== null));
    return every.length ? nearest(every, wanted ?? every[0]) : null;
  };
  const found = { ...view, gain: near("gain", view.gain), bias: near("forget_bias", view.bias), length: nearest(DATA.lengths, view.length) };
  const lags = lagsOf(curvesOf(found));
  return lags.length ? { ...found, lag: nearest(lags, view.lag) } : found;
}

// A view by an address, in which anything may stand.
function viewOf(address) {
  const given = new URLSearchParams(address.replace(/^#/, ""));
  const view = defaultView();
  const number = (name, otherwise) => (given.get(name)?.trim() && Number.isFinite(Number(given.get(name))) ? Number(given.get(name)) : otherwise);
  const word = (name, known, otherwise) => (Object.hasOwn(known, given.get(name)) ? known[given.get(name)] : otherwise);
  const flag = (name, otherwise) => word(name, { 0: false, 1: true }, otherwise);
  if (given.has("cell")) view.cells = DATA.cells.map((cell) => cell.name).filter((name) => given.getAll("cell").includes(name));
  if (DATA.schemes.some((scheme) => scheme.name === given.get("init"))) view.scheme = given.get("init");
  return settled({
    ...view,
    gain: number("gain", view.gain),
    bias: number("bias", view.bias),
    length: number("length", view.length),
    log: word("axis", { linear: false, log: true }, view.log),
    band: flag("band", view.band),
    theory: flag("theory", view.theory),
    lag: number("lag", number("length", view.length) / 2),
  });
}

function addressOf(view) {
  const words = new URLSearchParams((view.cells.length ? view.cells : [""]).map((name) => ["cell", name]));
  words.append("init", view.scheme);
  if (view.gain !== null) words.append("gain", view.gain);
  if (view.bias !== null) words.append("bias", view.bias);
  words.append("length", view.length);
  words.append("axis", view.log ? "log" : "linear");
  words.append("band", Number(view.band));
  words.append("theory", Number(view.theory));
  words.append("lag", view.lag);
  return `#${words}`;
}

// ----- words and numbers -------------------------------------------------------------------------

const signed = (text) => text.replace("-", MINUS);

const powerOfTen = (exponent) => `·10${[...String(exponent)].map((sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]).join("")}`;
const isPlain = (value) => value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6);

// A number rounded for display; an empty one is a dash.
function written(value, digits = 4) {
  if (value === null) return "–";
  if (!Number.isFinite(value)) return value < 0 ? `${MINUS}∞` : "∞";
  if (isPlain(value)) return signed(String(Number(value.toPrecision(digits))));
  const [factor, exponent] = value.toExponential(digits - 1).split("e");
  return signed(String(Number(factor))) + powerOfTen(Number(exponent));
}

// A value with as many decimals as its error tells.
function withError([value, low]) {
  if (value === null) return "–";
  const error = low === null ? 0 : value - low;
  if (!(error > 0)) return written(value);
  const fixed = (number, scale) => (number / scale).toFixed(Math.min(Math.max(1 - Math.floor(Math.log10(error / scale)), 0), 12));
  const both = (scale) => `${signed(fixed(value, scale))} ± ${fixed(error, scale)}`;
  if (isPlain(Math.max(Math.abs(value), error))) return both(1);
  const exponent = Math.floor(Math.log10(Math.max(Math.abs(value), error)));
  return `(${both(10 ** exponent)})${powerOfTen(exponent)}`;
}

const between = ({ low, high }) => (low === null || high === null ? "" : `[${written(low)},\u00a0${written(high)}]`);
const steps = (number) => `${number} step${number === 1 ? "" : "s"}`;
const exactly = (value) => (value === -Infinity ? "exactly zero" : written(value));

// plotly reads tags and entities in names.
const escaped = (text) => text.replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);

// ----- looks -------------------------------------------------------------------------------------

const theoryOf = (name) => DATA.theories.find((theory) => theory.name === name);

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const THEMES = ["light", "dark"];
// Storage may be refused to a file or a frame; a choice is then one of the page while it is open.
const stored = (use) => { try { return use(localStorage); } catch { return null; } };
let chosenTheme = THEMES.find((theme) => theme === stored((storage) => storage.getItem("theme")));
let onPaper = false; // which is light, whatever the page is
const themeOf = () => (onPaper ? "light" : chosenTheme ?? THEMES[Number(systemIsDark.matches)]);

const SYMBOLS = ["", "circle", "square", "triangle-up", "diamond", "cross", "x", "star"];
const SHAPES = {
  "circle": "M14 4a3 3 0 1 0 .01 0z", "square": "M11 4h6v6h-6z", "triangle-up": "M14 3l4 7h-8z", "diamond": "M14 3l4 4l-4 4l-4-4z",
  "cross": "M13 3h2v3h3v2h-3v3h-2v-3h-3v-2h3z", "x": "M11 4l3 2l3-2l-2 3l2 3l-3-2l-3 2l2-3z", "star": "M14 2l1.5 3.5l3.5 .5l-2.5 2.5l.5 3.5l-3-2l-3 2l.5-3.5l-2.5-2.5l3.5-.5z",
};

function drawn(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// A piece of a line as the figure draws it.
function sample({ colour = "currentColor", dash = "", mark = 0, kind = "line" }) {
  const svg = drawn("svg", { class: "sample", viewBox: "-4 0 36 14", "aria-hidden": "true" });
  if (kind === "band") svg.append(drawn("path", { d: "M-4 2h36v10h-36z", fill: colour, opacity: 0.2 }));
  if (kind === "zero") svg.append(drawn("path", { d: "M10 4h8l-4 7z", fill: "none", stroke: colour }));
  if (kind === "slope") svg.append(drawn("path", { d: "M14 3l4 4l-4 4l-4-4z", fill: "none", stroke: colour, "stroke-width": 1.5 }));
  if (kind === "line") svg.append(drawn("path", { d: "M-4 7h36", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash }));
  const shape = SHAPES[SYMBOLS[mark % SYMBOLS.length]];
  if (shape && kind === "line") svg.append(drawn("path", { d: shape, fill: colour }));
  return svg;
}

const cellSample = (cell) => sample({ colour: cell.colour[themeOf()], mark: cell.mark });

// ----- the figures -------------------------------------------------------------------------------

const withAlpha = (colour, alpha) => `rgba(${colour.match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16)).join(",")},${alpha})`;

// Least and largest of what is finite, with a margin; zero where nothing is.
function rangeOf(values, margin = 0.05) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (!isNumber(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [-1, 1];
  const pad = (high - low || Math.abs(high) || 1) * margin;
  return [low - pad, high + pad];
}

// The outline of a band, piece by piece where both its ends are known; what is -inf is the bottom.
function outline({ x, low, high }, bottom) {
  const outlines = { x: [], y: [] };
  const known = (index) => isNumber(high[index]) && low[index] !== null;
  for (let first = 0; first < x.length; first += 1) {
    if (!known(first)) continue;
    let last = first;
    while (last + 1 < x.length && known(last + 1)) last += 1;
    const there = Array.from({ length: last - first + 1 }, (_, index) => first + index);
    const back = [...there].reverse();
    outlines.x.push(...there.map((index) => x[index]), ...back.map((index) => x[index]), null);
    outlines.y.push(...there.map((index) => Math.max(low[index], bottom)), ...back.map((index) => high[index]), null);
    first = last;
  }
  return outlines;
}

const trace = (cell, quantity, rest) => ({ type: "scatter", name: escaped(cell.label), meta: { cell: cell.name, quantity }, hoverinfo: "none", showlegend: false, ...rest });
const marks = (cell, colour) => ({ symbol: SYMBOLS[cell.mark % SYMBOLS.length] || "circle", size: 7, color: colour, maxdisplayed: 12 });
const finite = (values) => values.map((value) => (isNumber(value) ? value : null));

function bandOf(cell, quantity, curve, bottom, theme) {
  return trace(cell, `${quantity} band`, { ...outline(curve, bottom), mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: withAlpha(cell.colour[theme], 0.13), hoverinfo: "skip" });
}

function lineOf(cell, quantity, curve, theme) {
  const colour = cell.colour[theme];
  return trace(cell, quantity, { x: curve.x, y: finite(curve.value), mode: cell.mark ? "lines+markers" : "lines", line: { color: colour, width: 2 }, marker: marks(cell, colour) });
}

function theoryLineOf(cell, name, curve, theme) {
  const { label, dash } = theoryOf(name);
  return trace(cell, `theory: ${name}`, { name: escaped(`${cell.label}: ${label}`), x: curve.x, y: finite(curve.value), mode: "lines", line: { color: cell.theory[theme], width: 1.5, dash } });
}

function zerosOf(cell, { x, value }, bottom, theme) {
  const zeros = x.filter((_, index) => value[index] === -Infinity);
  return trace(cell, "exactly zero", { x: zeros, y: zeros.map(() => bottom), mode: "markers", cliponaxis: false, marker: { symbol: "triangle-down-open", size: 7, color: cell.colour[theme] } });
}

const theoriesOf = ({ setting }, view) => (view.theory ? Object.entries(setting.theories) : []);

function gradientTraces(curves, view, bottom, theme) {
  const each = (draw) => curves.flatMap((curve) => draw(curve));
  return [
    ...each(({ cell, setting: { gradient } }) => (view.band && gradient.low ? [bandOf(cell, "gradient", gradient, bottom, theme)] : [])),
    ...each(({ cell, setting: { gradient } }) => [lineOf(cell, "gradient", gradient, theme)]),
    ...each((curve) => theoriesOf(curve, view).map(([name, line]) => theoryLineOf(curve.cell, name, line, theme))),
    ...each(({ cell, setting: { gradient } }) => (gradient.value.includes(-Infinity) ? [zerosOf(cell, gradient, bottom, theme)] : [])),
  ];
}

const faded = (colour) => colour.replace("rgb(", "rgba(").replace(")", ", 0.75)");
const ROUND_LAGS = [0, 1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
const floorNames = { value: "float32 ends", square: "squares in float32 end" };

// Colours of the page's own styles, for what plotly draws itself.
function paint() {
  const style = (selector) => getComputedStyle(document.querySelector(selector));
  return { text: style("body").color, faint: style(".facts").color, line: style("h2").borderBottomColor, page: style("body").backgroundColor };
}

function layoutOf({ text, faint, line }, xaxis, yaxis, rest) {
  const axis = { color: text, gridcolor: line, linecolor: faint, zeroline: false, showline: true, ticks: "outside", tickcolor: faint, ticklen: 4, gridwidth: 0.5, automargin: true, exponentformat: "none" };
  return {
    autosize: true,
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: text },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 60, r: 20, t: 12, b: 48 },
    hovermode: "x", hoverdistance: -1, dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", showlegend: false,
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis },
    ...rest,
  };
}

const hasPlace = (lag, view) => lag > 0 || !view.log;

function cursorAt(lag, view, colour) {
  return { type: "line", xref: "x", yref: "paper", x0: lag, x1: lag, y0: 0, y1: 1, line: { color: colour, width: 1 }, visible: hasPlace(lag, view) };
}

// What was measured fills the figure; theory that is far away, such as a loose bound, is cut.
function heightOf(curves, view) {
  const measured = curves.flatMap(({ setting: { gradient } }) => [gradient.value, ...(view.band && gradient.low ? [gradient.low, gradient.high] : [])].flat());
  const [low, high] = rangeOf(measured);
  const room = 0.3 * (high - low);
  const theory = curves.flatMap((curve) => theoriesOf(curve, view).flatMap(([, line]) => line.value));
  return rangeOf([low, high, ...theory.filter(isNumber).map((value) => Math.min(Math.max(value, low - room), high + room))], 0);
}

// Theory of which a part is beyond the figure.
function cutOff(curves, view) {
  const [low, high] = heightOf(curves, view);
  return curves.flatMap((curve) => theoriesOf(curve, view)
    .filter(([, line]) => line.value.some((value) => isNumber(value) && (value < low || value > high)))
    .map(([name]) => `${curve.cell.label}: ${theoryOf(name).label}`));
}

function gradientFigure(curves, view, colours) {
  const theme = themeOf();
  const [bottom, top] = heightOf(curves, view);
  const floors = Object.entries(DATA.floors).filter(([, floor]) => floor > bottom && floor < top);
  const shapes = [cursorAt(view.lag, view, colours.text), ...floors.map(([, floor]) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: floor, y1: floor, line: { color: colours.faint, width: 1, dash: "dot" } }))];
  const annotations = floors.map(([name, floor]) => ({ xref: "paper", x: 1, xanchor: "right", y: floor, yanchor: "bottom", showarrow: false, text: `${floorNames[name]}, ${written(floor, 3)}`, font: { size: 11, color: colours.faint }, bgcolor: faded(colours.page), borderpad: 0 }));
  const [shortest = 1] = lagsOf(curves).filter((lag) => lag > 0);
  const xaxis = view.log ? { type: "log", tickvals: ROUND_LAGS, range: [Math.log10(shortest), Math.log10(view.length)] } : { type: "linear", range: [0, view.length] };
  return {
    data: gradientTraces(curves, view, bottom, theme),
    layout: layoutOf(colours, { title: { text: "lag T − t (steps)", standoff: 8 }, ...xaxis }, { title: { text: "ln ‖∂L/∂s<sub>t</sub>‖ (nats)", standoff: 8 }, range: [bottom, top] }, { shapes, annotations }),
  };
}

// The slope of the gradient stands at index 0, beside the exponents.
function slopeOf(cell, [value, low, high], theme) {
  const colour = cell.colour[theme];
  const error = low === null ? {} : { error_y: { type: "data", symmetric: false, array: [high - value], arrayminus: [value - low], color: colour, thickness: 1.5, width: 4 } };
  return trace(cell, "slope", { x: [0], y: [value], mode: "markers", marker: { symbol: "diamond-open", size: 9, color: colour, line: { width: 2 } }, ...error });
}

function spectrumFigure(curves, view, colours) {
  const theme = themeOf();
  const shown = curves.filter(({ spectrum }) => spectrum);
  const values = [0, ...shown.flatMap(({ spectrum }) => [spectrum.value, spectrum.low ?? [], spectrum.high ?? []].flat()), ...curves.flatMap(({ setting }) => setting.slope)];
  const [bottom, top] = rangeOf(values);
  const last = Math.max(1, ...shown.flatMap(({ spectrum }) => spectrum.x));
  const data = [
    ...shown.flatMap(({ cell, spectrum }) => (spectrum.low ? [bandOf(cell, "lyapunov", spectrum, bottom, theme)] : [])),
    ...shown.map(({ cell, spectrum }) => ({ ...lineOf(cell, "lyapunov", spectrum, theme), mode: "lines+markers", marker: { ...marks(cell, cell.colour[theme]), size: 5, maxdisplayed: 0 } })),
    ...curves.filter(({ setting }) => isNumber(setting.slope[0])).map(({ cell, setting }) => slopeOf(cell, setting.slope, theme)),
  ];
  const zero = { type: "line", xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0, layer: "below", line: { color: colours.faint, width: 1.5 } };
  return {
    data,
    layout: layoutOf(colours, { title: { text: "index of the exponent", standoff: 8 }, range: [-0.6, last + 0.5], ...(last < 8 ? { dtick: 1 } : {}) }, { title: { text: "Lyapunov exponent (nats/step)", standoff: 8 }, range: [bottom, top] }, { shapes: [zero] }),
  };
}

// ----- what is said of the figures ---------------------------------------------------------------

function made(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  Object.assign(node, attributes);
  node.append(...children);
  return node;
}

function drawLegends(curves, view) {
  const item = (mark, text) => made("li", {}, mark, text);
  const cells = () => curves.map(({ cell }) => item(cellSample(cell), cell.label));
  const drawnTheories = DATA.theories.filter(({ name }) => curves.some((curve) => theoriesOf(curve, view).some(([own]) => own === name)));
  const zeros = curves.some(({ setting }) => setting.gradient.value.includes(-Infinity));
  element("legend").replaceChildren(
    ...cells(),
    ...(view.band && curves.length ? [item(sample({ kind: "band" }), "10–90 %")] : []),
    ...drawnTheories.map(({ label, dash }) => item(sample({ dash }), label)),
    ...(zeros ? [item(sample({ kind: "zero" }), "exactly zero")] : []),
  );
  element("spectrum-legend").replaceChildren(
    ...cells(),
    ...(curves.length ? [item(sample({ kind: "slope" }), "slope of the gradient"), item(sample({ kind: "band" }), "least to largest of the seeds")] : []),
  );
}

const exact = (value, text) => (value === null ? text : made("data", { value: String(value) }, text));
const cellOf = (...children) => made("td", { className: "number" }, ...children);

function theoryLines(curve, lag) {
  return theoriesOf(curve, { theory: true }).map(([name, line]) => {
    const at = valueAt(line, lag).value;
    return made("div", {}, `${theoryOf(name).label}: `, exact(at, exactly(at)), "; ", exact(line.slope, written(line.slope)));
  });
}

function rowOf(curve, lag) {
  const { cell, setting, spectrum } = curve;
  const at = valueAt(setting.gradient, lag);
  const [halfLife] = setting["half-life"];
  const hasSlope = setting.slope[0] !== null;
  const withoutSlope = setting.zeros ? "none: exact zeros" : "none";
  const largest = spectrum?.value[0] ?? null;
  const theories = theoryLines(curve, lag);
  const row = made("tr", {},
    made("th", { scope: "row" }, cellSample(cell), cell.label),
    cellOf(exact(at.value, exactly(at.value)), " ", between(at)),
    cellOf(exact(setting.slope[0], hasSlope ? withError(setting.slope) : withoutSlope)),
    cellOf(exact(halfLife, halfLife !== null ? written(halfLife) : hasSlope ? "no decay" : "none")),
    cellOf(exact(largest, written(largest))),
    made("td", {}, ...(theories.length ? theories : ["none"])));
  row.dataset.cell = cell.name;
  return row;
}

function missingRow(cell, view) {
  const row = made("tr", {}, made("th", { scope: "row" }, cellSample(cell), cell.label), made("td", { colSpan: 5 }, `no data: ${lack(cell.name, view)}`));
  row.dataset.cell = cell.name;
  return row;
}

function drawTable(curves, view, lag) {
  const rows = DATA.cells.filter((cell) => view.cells.includes(cell.name)).map((cell) => {
    const curve = curves.find((one) => one.cell === cell);
    return curve ? rowOf(curve, lag) : missingRow(cell, view);
  });
  if (!rows.length) rows.push(made("tr", {}, made("td", { colSpan: 6 }, "No cell is chosen.")));
  element("table").tBodies[0].replaceChildren(...rows);
  element("at-lag").textContent = `at lag ${lag} [10\u00a0%,\u00a090\u00a0%]`;
}

function drawExponents(curves) {
  const numbers = (values) => values.map((value) => cellOf(exact(value, written(value))));
  const rows = curves.filter(({ spectrum }) => spectrum).flatMap(({ cell, spectrum: { x, value, low, high } }) => x.map((at, index) =>
    made("tr", {}, made("th", { scope: "row" }, cellSample(cell), cell.label), ...numbers([at, value[index], low?.[index] ?? null, high?.[index] ?? null]))));
  element("exponents").hidden = !rows.length;
  element("exponents").querySelector("tbody").replaceChildren(...rows);
}

function choiceInWords(view) {
  const parts = [`initialisation: ${nameOf(DATA.schemes, view.scheme)}`];
  if (choices("gain", view.scheme).length) parts.push(`gain ${view.gain}`);
  if (choices("forget_bias", view.scheme).length) parts.push(`forget bias ${view.bias} where there is one`);
  return `${parts.join(", ")}, ${steps(view.length)}`;
}

function missingInWords(view) {
  const lacking = DATA.cells.filter((cell) => view.cells.includes(cell.name) && lack(cell.name, view));
  return lacking.map((cell) => `${cell.label} (${lack(cell.name, view)})`).join("; ");
}

// ----- the controls ------------------------------------------------------------------------------

const inputs = (name) => [...document.querySelectorAll(`#choices input[name=${name}]`)];

function setSlider(id, values, value, off) {
  const input = element(id);
  input.max = Math.max(values.length - 1, 0);
  input.value = Math.max(values.indexOf(value), 0);
  input.disabled = Boolean(off);
  const shown = values.length && !off ? String(value) : "–";
  element(`${id}-value`).textContent = signed(shown);
  input.setAttribute("aria-valuetext", signed(shown));
  element(`${id}-note`).textContent = off;
}

const OF_THE_PAPER = "Set by its own paper.";

function gainNote(view) {
  if (view.scheme === "own") return OF_THE_PAPER;
  const count = choices("gain", view.scheme).length;
  return count ? (count > 1 ? "" : "The only one in this run.") : "This initialisation has no gain.";
}

function biasNote(view) {
  if (view.scheme === "own") return OF_THE_PAPER;
  const values = choices("forget_bias", view.scheme);
  if (!values.length) return "No cell of this run has one here.";
  const has = (name) => DATA.settings.some((setting) => setting.cell === name && setting.scheme === view.scheme && setting.forget_bias !== null);
  if (!view.cells.some(has)) return "None of the chosen cells has one here.";
  return values.length > 1 ? "" : "The only one in this run.";
}

function withoutBias(view, curves) {
  const names = curves.filter(({ setting }) => setting.forget_bias === null).map(({ cell }) => cell.label);
  return names.length ? `Without one: ${names.join(", ")}.` : "";
}

// Cells with data for a choice come first, in their order; the others are folded away behind them.
function drawCells(view) {
  const boxes = new Map(inputs("cell").map((input) => [input.value, input]));
  for (const [name, input] of boxes) {
    input.checked = view.cells.includes(name);
    input.title = lack(name, view);
  }
  const inOrder = DATA.cells.map(({ name }) => boxes.get(name));
  const lacking = inOrder.filter((input) => input.title);
  for (const [id, group] of [["having", inOrder.filter((input) => !input.title)], ["lacking", lacking]]) {
    // Only what changes its place is touched: the focus stays.
    if (group.some((input) => input.closest(".options").id !== id)) element(id).append(...group.map((input) => input.parentElement));
  }
  const chosen = lacking.filter((input) => input.checked).length;
  element("without").hidden = !lacking.length;
  element("without").firstElementChild.textContent = `${lacking.length} without data for this choice${chosen ? `, ${chosen} chosen` : ""}`;
}

function drawControls(view, curves) {
  drawCells(view);
  for (const input of inputs("scheme")) input.checked = input.value === view.scheme;
  for (const input of inputs("length")) input.checked = Number(input.value) === view.length;
  for (const input of inputs("axis")) input.checked = (input.value === "log") === view.log;
  const hasTheory = curves.some(({ setting }) => Object.keys(setting.theories).length);
  const [band] = inputs("band");
  const [theory] = inputs("theory");
  [band.checked, theory.checked] = [view.band, view.theory];
  theory.disabled = !hasTheory;
  element("theory-note").textContent = hasTheory ? "" : "There is no theory of what is shown.";
  setSlider("gain", choices("gain", view.scheme), view.gain, gainNote(view));
  setSlider("bias", choices("forget_bias", view.scheme), view.bias, biasNote(view));
  if (!biasNote(view)) element("bias-note").textContent = withoutBias(view, curves);
  const lags = lagsOf(curves);
  setSlider("lag", lags, view.lag, lags.length ? "" : "There is no curve to read.");
  if (lags.length) {
    element("lag-value").textContent = steps(view.lag);
    element("lag").setAttribute("aria-valuetext", steps(view.lag));
  }
}

// ----- drawing -----------------------------------------------------------------------------------

const CONFIG = { displayModeBar: false, displaylogo: false, responsive: true, showTips: false, doubleClick: false };
const PAPER = { autosize: false, width: 660, height: 300 }; // in px, between the margins of A4 and of Letter
const gradientPlot = element("gradient-plot");
const spectrumPlot = element("spectrum-plot");
let view = viewOf(location.hash);
let curves = [];
let drawnFigures = {};

function draw() {
  curves = curvesOf(view);
  const colours = paint();
  drawnFigures = { gradient: gradientFigure(curves, view, colours), spectrum: spectrumFigure(curves, view, colours) };
  drawControls(view, curves);
  const missing = missingInWords(view);
  element("missing").hidden = !missing;
  element("missing").textContent = `No data for this choice: ${missing}`;
  drawLegends(curves, view);
  drawTable(curves, view, view.lag);
  drawExponents(curves);
  element("caption").textContent = `With ${choiceInWords(view)}`;
  element("gradient-note").textContent = noteOfGradient();
  element("spectrum-note").textContent = noteOfSpectrum();
  gradientPlot.setAttribute("aria-label", `Curves of ${curves.map(({ cell }) => cell.label).join(", ") || "no cell"}: ln gradient norm in nats against the lag in steps. The table of readings has their values at a lag.`);
  spectrumPlot.setAttribute("aria-label", `Lyapunov exponents of ${curves.map(({ cell }) => cell.label).join(", ") || "no cell"} against their index, in nats per step. A table below the readings has their values.`);
  hideTip();
  show(gradientPlot, drawnFigures.gradient, `${view.length} ${view.log}`);
  show(spectrumPlot, drawnFigures.spectrum, "");
}

// What the reader has enlarged stays so, as long as the axes mean the same.
function show(plot, { data, layout }, meaning) {
  const homes = {};
  for (const axis of ["xaxis", "yaxis"]) {
    homes[axis] = String(layout[axis].range);
    const enlarged = plot.homes && String(plot.layout[axis].range) !== plot.homes[axis];
    if (enlarged && plot.meaning === meaning) layout[axis].range = plot.layout[axis].range;
  }
  Object.assign(plot, { homes, meaning });
  Plotly.react(plot, data, onPaper ? { ...layout, ...PAPER } : layout, CONFIG);
}

function noteOfGradient() {
  const cut = cutOff(curves, view);
  return [cut.length && `Beyond the figure: ${cut.join(", ")}.`, view.log && "Lag 0 has no place on a logarithmic axis."].filter(Boolean).join(" ");
}

function noteOfSpectrum() {
  const without = curves.filter(({ spectrum }) => !spectrum).map(({ cell }) => cell.label);
  return `Exponents are those of the network, for every length; at index 0 stands the slope of its gradient over ${steps(view.length)}.${without.length ? ` No exponents: ${without.join(", ")}.` : ""}`;
}

// ----- reading at the pointer --------------------------------------------------------------------

const tip = made("div", { id: "tip", hidden: true });
tip.setAttribute("aria-hidden", "true");
document.body.append(tip);

// What is known at a point of a figure, of its cell alone: the tables have all cells.
function readingsAt({ setting, spectrum }, quantity, x) {
  if (quantity === "slope") return { where: "gradient", rows: [["slope", withError(setting.slope)]] };
  const at = valueAt(quantity === "lyapunov" ? spectrum : setting.gradient, x);
  if (quantity === "lyapunov") return { where: `exponent ${x}`, rows: [["mean", written(at.value)], ["least, largest", between(at)]] };
  const theories = theoriesOf({ setting }, view).map(([name, line]) => [theoryOf(name).label, exactly(valueAt(line, x).value)]);
  return { where: `lag ${x}`, rows: [["median", exactly(at.value)], ["10–90 %", between(at)], ...theories] };
}

// Beside the pointer or, where there is no room, above or below it; and within the window.
function showTip({ data: { meta }, x }, { clientX, clientY }) {
  const curve = curves.find(({ cell }) => cell.name === meta.cell);
  if (!curve) return; // the choice changed under the pointer
  const { where, rows } = readingsAt(curve, meta.quantity, x);
  const row = ([name, text]) => made("p", {}, made("span", {}, name), made("span", {}, text));
  tip.replaceChildren(made("strong", {}, cellSample(curve.cell), `${curve.cell.label}, ${where}`), ...rows.map(row));
  tip.hidden = false;
  const { offsetWidth: width, offsetHeight: height } = tip;
  const [gap, edge] = [20, 4];
  const left = clientX + gap + width + edge > innerWidth ? clientX - gap - width : clientX + gap;
  const beside = left >= edge;
  const above = clientY - gap - height;
  const top = beside ? clientY - height / 2 : above >= edge ? above : clientY + gap;
  const within = (start, size, room) => `${Math.max(edge, Math.min(start, room - size - edge))}px`;
  Object.assign(tip.style, { left: within(left, width, innerWidth), top: within(top, height, innerHeight) });
}

function hideTip() {
  tip.hidden = true;
}

// plotly finds the points at the pointer's place along the axis; the tip has the nearest of them.
function watch(plot, reach = () => {}, leave = () => {}) {
  let points = [];
  const follow = (pointer) => {
    const top = plot.getBoundingClientRect().top;
    const away = ({ y, yaxis }) => Math.abs(top + yaxis._offset + yaxis.d2p(y) - pointer.clientY);
    if (points.length) showTip(points.reduce((best, point) => (away(point) < away(best) ? point : best)), pointer);
  };
  plot.on("plotly_hover", (found) => {
    points = found.points.filter(({ x }) => x === found.points[0].x);
    reach(points[0].x);
    follow(found.event);
  });
  plot.on("plotly_unhover", () => {
    points = [];
    hideTip();
    leave();
  });
  plot.on("plotly_doubleclick", () => {
    delete plot.homes;
    draw();
  });
  plot.addEventListener("mousemove", follow);
  plot.addEventListener("mousedown", hideTip);
}

// Moves the cursor and what is read at it; the figures stay.
function read(lag) {
  Plotly.relayout(gradientPlot, { "shapes[0].x0": lag, "shapes[0].x1": lag, "shapes[0].visible": hasPlace(lag, view) });
  drawTable(curves, view, lag);
}

// ----- changes -----------------------------------------------------------------------------------

let saying = 0;
function say(text) {
  clearTimeout(saying);
  saying = setTimeout(() => { element("said").textContent = text; }, 600);
}

let addressing = 0;
function keepAddress() {
  clearTimeout(addressing);
  if (addressOf(view) !== location.hash) history.replaceState(null, "", addressOf(view));
}

// Each change of a choice is a step of the browser's history; on the way of a slider there is none.
function change(changes, onTheWay = false) {
  clearTimeout(addressing);
  const before = addressOf(view);
  view = settled({ ...view, ...changes });
  if (addressOf(view) !== before) draw();
  if (!onTheWay && addressOf(view) !== location.hash) history.pushState(null, "", addressOf(view));
  const missing = missingInWords(view);
  say(`${choiceInWords(view)}: ${curves.length} of ${view.cells.length} chosen cells drawn.${missing ? ` No data: ${missing}.` : ""}`);
}

// The lag is no step of the history: the arrow keys pass through many.
function moveLag(lag) {
  view = { ...view, lag };
  drawControls(view, curves);
  read(lag);
  clearTimeout(addressing);
  addressing = setTimeout(keepAddress, 250);
  const values = curves.map(({ cell, setting }) => `${cell.label} ${exactly(valueAt(setting.gradient, lag).value)}`);
  say(`Lag ${lag}: ${values.join(", ")}`);
}

function follow() {
  clearTimeout(addressing);
  const there = viewOf(location.hash);
  if (addressOf(there) === addressOf(view)) return;
  view = there;
  draw();
}

function listen() {
  const chosen = () => DATA.cells.map((cell) => cell.name).filter((name) => inputs("cell").find((input) => input.value === name).checked);
  const on = (name, handle) => inputs(name).forEach((input) => input.addEventListener("change", () => handle(input)));
  on("cell", () => change({ cells: chosen() }));
  on("scheme", (input) => change({ scheme: input.value }));
  on("length", (input) => change({ length: Number(input.value) }));
  on("axis", (input) => change({ log: input.value === "log" }));
  on("band", (input) => change({ band: input.checked }));
  on("theory", (input) => change({ theory: input.checked }));
  element("all").addEventListener("click", () => change({ cells: DATA.cells.map((cell) => cell.name) }));
  element("none").addEventListener("click", () => change({ cells: [] }));
  for (const [id, field, column] of [["gain", "gain", "gain"], ["bias", "bias", "forget_bias"]]) {
    const chosenValue = (input) => ({ [field]: choices(column, view.scheme)[Number(input.value)] });
    element(id).addEventListener("input", (event) => change(chosenValue(event.target), true));
    element(id).addEventListener("change", (event) => change(chosenValue(event.target)));
  }
  element("lag").addEventListener("input", (event) => moveLag(lagsOf(curves)[Number(event.target.value)]));
  element("choices").addEventListener("submit", (event) => event.preventDefault());
  element("theme").addEventListener("click", () => {
    chosenTheme = themeOf() === "dark" ? "light" : "dark";
    stored((storage) => storage.setItem("theme", chosenTheme));
    drawInTheme();
  });
  element("copy").addEventListener("click", copyLink);
  element("csv").addEventListener("click", saveData);
  for (const button of document.querySelectorAll("button[data-figure]")) button.addEventListener("click", () => saveFigure(button.dataset.figure, button.dataset.format));
  systemIsDark.addEventListener("change", drawInTheme);
  const print = (paper) => () => { onPaper = paper; drawInTheme(); };
  addEventListener("beforeprint", print(true));
  addEventListener("afterprint", print(false));
  addEventListener("popstate", follow);
  watch(gradientPlot, read, () => read(view.lag));
  watch(spectrumPlot);
  gradientPlot.on("plotly_click", ({ points }) => moveLag(points[0].x));
}

function drawInTheme() {
  document.documentElement.dataset.theme = themeOf();
  element("theme").textContent = themeOf() === "dark" ? "Light page" : "Dark page";
  draw();
}

// ----- to take away ------------------------------------------------------------------------------

async function copyLink() {
  keepAddress();
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link is copied.");
    element("copy").textContent = "Link copied";
  } catch {
    element("copy").textContent = "Copy it from the address bar";
  }
  setTimeout(() => { element("copy").textContent = "Copy link to this view"; }, 2500);
}

function save(name, blob) {
  const link = made("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const asCsv = (value) => (value === null ? "" : quoted(String(value).replace("Infinity", "inf")));

// The rows of results.csv for what is shown.
function rowsOf({ setting, spectrum }) {
  const about = (length, quantity) => [setting.cell, setting.scheme, setting.gain, setting.forget_bias, length, quantity];
  const along = (length, quantity, { x, value, low, high }) => x.map((at, index) => [...about(length, quantity), at, value[index], low?.[index] ?? null, high?.[index] ?? null]);
  return [
    ...along(view.length, "gradient", setting.gradient),
    ...["slope", "half-life"].map((name) => [...about(view.length, name), null, ...setting[name]]),
    ...theoriesOf({ setting }, view).flatMap(([name, line]) => along(view.length, `theory: ${name}`, line)),
    ...(spectrum ? along(DATA.lengths.at(-1), "lyapunov", spectrum) : []),
  ];
}

function saveData() {
  const header = ["cell", "scheme", "gain", "forget_bias", "length", "quantity", "x", "value", "low", "high"];
  const lines = [header, ...curves.flatMap(rowsOf)].map((row) => row.map(asCsv).join(","));
  save("shown.csv", new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
}

// As on the page, with its legend and without the cursor.
async function saveFigure(name, format) {
  const { data, layout } = drawnFigures[name];
  const kept = { ...layout, showlegend: true, paper_bgcolor: paint().page, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { ...layout.margin, t: 24 }, shapes: name === "gradient" ? layout.shapes.slice(1) : layout.shapes };
  const traces = data.map((one) => ({ ...one, showlegend: ["gradient", "lyapunov"].includes(one.meta.quantity) || one.meta.quantity.startsWith("theory") }));
  const url = await Plotly.toImage({ data: traces, layout: kept }, { format, width: 900, height: 560, scale: format === "png" ? 2 : 1 });
  const text = format === "svg" ? decodeURIComponent(url.slice(url.indexOf(",") + 1)) : Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (sign) => sign.charCodeAt(0));
  save(`${name}.${format}`, new Blob([text], { type: format === "svg" ? "image/svg+xml" : "image/png" }));
}

drawInTheme();
listen();
