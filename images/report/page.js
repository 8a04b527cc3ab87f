// Draws what model.js knows. Places are links to fragments of this page: the browser's own back, forward and
// Enter work.
"use strict";

const GAP = 3, HEADER = 22, LEAST = 150;
// How wide and high a tile must be to show what is in it, level by level.
const NESTS = [[80, 50], [150, 110], [Infinity, Infinity]];
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const root = buildTree(data);
let current = root;

// An element; text never becomes markup.
function element(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...inside);
  return made;
}

const exact = (bytes) => `${bytes.toLocaleString("en-US")} bytes`;
const part = (size, whole) => `${((100 * size) / (whole || 1)).toFixed(size / whole < 0.1 ? 1 : 0)} %`;
const count = (number, what) => `${number.toLocaleString("en-US")} ${what}${number === 1 ? "" : "s"}`;
const originHash = (index) => `#${data.origins[index].kind}/${index}`;

function draw() {
  const map = $("map");
  const { width, height } = map.getBoundingClientRect();
  const shown = current.children().length ? current : current.parent;
  const tiles = [];
  place(shown, 0, 0, width, height, 0, tiles);
  map.replaceChildren(...tiles);
  const first = map.querySelector("[aria-current]") || map.querySelector("a");
  if (first) first.tabIndex = 0;
}

function place(node, x, y, width, height, depth, tiles) {
  const children = drawn(node, width * height, LEAST);
  const boxes = squarify(children.map((child) => child.size), x, y, width, height);
  const largest = children.length ? children[0].size || 1 : 1;
  children.forEach((child, index) => {
    const box = boxes[index];
    const inner = [box[0] + GAP, box[1] + HEADER, box[2] - 2 * GAP, box[3] - HEADER - GAP];
    const [wide, high] = NESTS[depth];
    const parts = inner[2] > wide && inner[3] > high && child.id !== "+" ? child.children() : [];
    // A tile that is nearly all of its group says no more than the group.
    const nests = parts.length > 1 && (depth === 0 || parts[0].size < 0.9 * child.size);
    const made = tile(child, box, nests, Math.sqrt(child.size / largest));
    if (nests && depth) made.classList.add("inner");
    tiles.push(made);
    if (nests) place(child, ...inner, depth + 1, tiles);
  });
}

function tile(node, [x, y, width, height], isGroup, shade) {
  const about = `${node.name}, ${human(node.size)}, ${part(node.size, root.size)} of all`;
  const made = element("a", { href: hashOf(node), class: isGroup ? "tile group" : "tile", title: about,
    "aria-label": about, tabindex: "-1", "data-kind": node.kind });
  if (node === current) made.setAttribute("aria-current", "true");
  const gap = Math.min(GAP, width / 5, height / 5);
  const box = { left: x, top: y, width: width - gap, height: height - gap };
  for (const side of Object.keys(box)) made.style[side] = `${box[side]}px`;
  made.style.setProperty("--shade", shade.toFixed(3));
  if (isGroup) {
    made.append(element("b", {}, node.name));
    if (width > 130) made.append(element("i", {}, human(node.size)));
  } else if (height > 24 && width > 18 + 7 * Math.min(node.name.length, 7)) {
    // As large as the tile suggests and the name allows.
    const fits = (width - 20) / node.name.length / 0.6;
    const letter = Math.max(11, Math.min(22, Math.sqrt(width * height) / 11, fits));
    made.style.setProperty("--letter", `${letter.toFixed(1)}px`);
    made.classList.add("named");
    made.append(element("b", {}, node.name));
    if (height > 46 && width > 74) made.append(element("i", {}, human(node.size)));
  }
  return made;
}

function tell() {
  const path = pathOf(current);
  $("crumbs").replaceChildren(...path.map((node, index) => {
    const last = index === path.length - 1;
    return element("li", {}, last ? element("span", { "aria-current": "page" }, node.name)
      : element("a", { href: hashOf(node) }, node.name));
  }));
  $("up").hidden = current === root;
  const inside = [
    element("h2", {}, current.name),
    element("p", { class: "size" }, element("strong", {}, human(current.size)),
      ` ${exact(current.size)}`, element("br"), count(current.files, "file"),
      current === root ? "" : `, ${part(current.size, root.size)} of all`),
  ];
  if (current.path) inside.push(element("p", { class: "path" }, current.path));
  if (Number.isInteger(current.origin)) inside.push(...why(current.origin, current.isOrigin));
  const children = current.children();
  if (children.length) {
    const rows = children.slice(0, 12).map((node) => row(node, children[0].size));
    inside.push(element("h3", {}, "Inside"), element("ul", { class: "rows" }, ...rows));
    const more = `and ${children.length - 12} more in the map`;
    if (children.length > 12) inside.push(element("p", { class: "more" }, more));
  }
  if (current === root) {
    const every = root.children().flatMap((kind) => kind.children());
    const largest = every.sort((a, b) => b.size - a.size).slice(0, 12);
    inside.push(element("h3", {}, "Largest"),
      element("ul", { class: "rows" }, ...largest.map((node) => row(node, largest[0].size))));
  }
  $("details").replaceChildren(...inside);
  $("said").textContent = `${current.name}: ${human(current.size)}, ${count(current.files, "file")}`;
}

function why(index, isOrigin) {
  const chain = [];
  for (let step = index; step !== null && !chain.includes(step); step = data.origins[step].because) {
    chain.push(step);
  }
  const steps = chain.map((one) => {
    const { kind, what, text } = data.origins[one];
    const link = element("a", { href: originHash(one) }, what);
    return element("li", { "data-kind": kind }, link, element("span", {}, text));
  });
  const inside = [element("h3", {}, "Why is this here?"), element("ol", { class: "chain" }, ...steps)];
  if (!isOrigin) return inside;
  const origin = data.origins[index];
  if (origin.alone) {
    inside.push(element("p", {}, `${human(origin.alone)} with all that nothing else needs.`));
  }
  const needers = data.origins.flatMap((other, one) => (other.needs.includes(index) ? [one] : []));
  for (const [name, others] of [["Needed by", needers], ["Needs", origin.needs]]) {
    if (!others.length) continue;
    inside.push(element("h3", {}, name), element("ul", { class: "chips" }, ...others.map((one) =>
      element("li", { "data-kind": data.origins[one].kind },
        element("a", { href: originHash(one) }, data.origins[one].what)))));
  }
  return inside;
}

function row(node, largest) {
  const made = element("li", { "data-kind": node.kind }, element("a", { href: hashOf(node) }, node.name),
    element("span", {}, human(node.size)));
  made.style.setProperty("--part", `${((100 * node.size) / (largest || 1)).toFixed(1)}%`);
  return made;
}

function go() {
  const inMap = $("map").contains(document.activeElement) || $("crumbs").contains(document.activeElement);
  current = nodeAt(root, data, location.hash);
  draw();
  tell();
  if (inMap) $("map").querySelector("a[tabindex='0']").focus({ preventScroll: true });
}

function up() {
  if (current === root) return;
  const left = current;
  location.hash = hashOf(current.parent);
  // Where one came from, once the page has gone there.
  addEventListener("hashchange", () => {
    const from = [...$("map").children].find((one) => one.getAttribute("href") === hashOf(left));
    if (from) from.focus({ preventScroll: true });
  }, { once: true });
}

// Arrow keys: the nearest tile whose middle lies that way.
function step(key) {
  const at = document.activeElement.getBoundingClientRect();
  const middle = (box) => [box.left + box.width / 2, box.top + box.height / 2];
  const [x, y] = middle(at);
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  let best = null, least = Infinity;
  for (const one of $("map").children) {
    const [ox, oy] = middle(one.getBoundingClientRect());
    const ahead = (ox - x) * dx + (oy - y) * dy, aside = Math.abs((ox - x) * dy) + Math.abs((oy - y) * dx);
    if (ahead > 1 && ahead + 2 * aside < least) { best = one; least = ahead + 2 * aside; }
  }
  if (!best) return;
  document.activeElement.tabIndex = -1;
  best.tabIndex = 0;
  best.focus();
}

function find() {
  const matches = search(data, $("search").value, 12);
  $("matches").replaceChildren(...matches.map(([, name, detail, size, origin, path], index) => {
    const href = path === null ? originHash(origin) : `#${encodeURI(path)}`;
    const option = { role: "option", id: `match-${index}`, "aria-selected": "false", tabindex: "-1" };
    return element("a", { ...option, href, "data-kind": data.origins[origin].kind },
      element("b", {}, name), element("span", {}, human(size)), element("small", {}, detail));
  }));
  if ($("search").value && !matches.length) $("matches").append(element("p", {}, "Nothing is called so."));
  const open = $("search").value !== "";
  $("matches").hidden = !open;
  $("search").setAttribute("aria-expanded", String(open));
  $("search").removeAttribute("aria-activedescendant");
}

function choose(change) {
  const options = [...$("matches").querySelectorAll("a")];
  const at = options.findIndex((one) => one.getAttribute("aria-selected") === "true");
  const next = options[(at + change + options.length + (at < 0 && change < 0 ? 1 : 0)) % options.length];
  options.forEach((one) => one.setAttribute("aria-selected", String(one === next)));
  if (!next) return;
  next.scrollIntoView({ block: "nearest" });
  $("search").setAttribute("aria-activedescendant", next.id);
}

function closeSearch() { $("search").value = ""; find(); }

$("search").addEventListener("input", find);
$("search").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") choose(event.key === "ArrowDown" ? 1 : -1);
  else if (event.key === "Enter") {
    const one = $("matches").querySelector("[aria-selected='true']") || $("matches").querySelector("a");
    if (one) { location.hash = one.getAttribute("href"); closeSearch(); }
  } else if (event.key === "Escape") closeSearch();
  else return;
  event.preventDefault();
  event.stopPropagation();
});
document.addEventListener("click", (event) => { if (!event.target.closest("#search")) closeSearch(); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target === $("search")) return;
  if (event.key === "Escape" || event.key === "Backspace") up();
  else if (event.key === "/") $("search").focus();
  else if (event.key.startsWith("Arrow") && $("map").contains(document.activeElement)) step(event.key);
  else return;
  event.preventDefault();
});
$("up").addEventListener("click", up);
$("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
});
for (const table of document.querySelectorAll("table")) {
  const rows = table.tBodies[0].rows;
  if (rows.length <= 15) continue;
  const button = element("button", { type: "button", class: "all" }, `Show all ${rows.length}`);
  table.classList.add("short");
  button.addEventListener("click", () => { table.classList.remove("short"); button.remove(); });
  table.after(button);
}
addEventListener("hashchange", go);
new ResizeObserver(draw).observe($("map"));
document.documentElement.classList.add("live");
go();
