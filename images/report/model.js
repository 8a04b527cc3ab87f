// What the page knows: data -> tree of nodes -> rectangles. Pure: no document, so that a test can run it.
"use strict";

const UNITS = ["B", "kB", "MB", "GB", "TB"];

// Bytes in three digits: 999 B, 1.50 kB, 138 MB. builder/explain.py has the same in Python.
function human(bytes) {
  let size = bytes, unit = 0;
  while (size >= 999.5 && unit < UNITS.length - 1) { size /= 1000; unit += 1; }
  return `${size.toFixed(unit === 0 || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2)} ${UNITS[unit]}`;
}

// Rectangles [x, y, width, height] inside the given one, their areas proportional to `sizes`, the largest
// first. Bruls, Huizing, van Wijk: Squarified Treemaps (2000).
function squarify(sizes, x, y, width, height) {
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const areas = sizes.map((size) => (total ? size / total : 1 / sizes.length) * width * height);
  const worst = (sum, largest, smallest, side) =>
    Math.max((side * side * largest) / (sum * sum), (sum * sum) / (side * side * smallest));
  const found = [];
  for (let first = 0; first < areas.length;) {
    const side = Math.min(width, height);
    let end = first + 1, sum = areas[first];
    const better = () => worst(sum + areas[end], areas[first], areas[end], side)
      <= worst(sum, areas[first], areas[end - 1], side);
    while (end < areas.length && areas[end] > 0 && better()) {
      sum += areas[end];
      end += 1;
    }
    const thick = side > 0 ? sum / side : 0;
    let along = 0;
    for (let i = first; i < end; i += 1) {
      const length = sum > 0 ? (areas[i] / sum) * side : 0;
      found.push(width >= height ? [x, y + along, thick, length] : [x + along, y, length, thick]);
      along += length;
    }
    if (width >= height) { x += thick; width -= thick; } else { y += thick; height -= thick; }
    first = end;
  }
  return found;
}

// The nodes to draw in so many square pixels: those that get at least `least` each, and one for all others.
function drawn(node, area, least) {
  const children = node.children();
  const small = children.findIndex((child) => (child.size / (node.size || 1)) * area < least);
  // Some are drawn however small: to enter the others must lead on.
  const cut = Math.max(small, Math.ceil(Math.sqrt(children.length)));
  if (small < 0 || cut >= children.length - 1) return children;
  const rest = children.slice(cut);
  const more = makeNode(node, "+", `${rest.length} smaller`, () => rest);
  node.more = more;
  return [...children.slice(0, cut), more].sort((one, other) => other.size - one.size);
}

function makeNode(parent, id, name, children) {
  let known = null;
  const node = { parent, id, name, kind: parent && parent.kind, origin: parent && parent.origin };
  node.children = () => {
    if (known === null) known = children().sort((a, b) => b.size - a.size || (a.name < b.name ? -1 : 1));
    return known;
  };
  if (id === "+") {
    node.size = node.children().reduce((sum, child) => sum + child.size, 0);
    node.files = node.children().reduce((sum, child) => sum + child.files, 0);
  }
  return node;
}

const joined = (folder, name) => (folder === "/" ? `/${name}` : `${folder}/${name}`);

// The node of everything; what lies in it is made when it is asked for.
function buildTree(data) {
  const owned = data.origins.map(() => []);
  for (const folder of Object.keys(data.files)) {
    const entries = data.files[folder];
    for (let i = 0; i < entries.length; i += 3) {
      owned[entries[i + 2]].push([joined(folder, entries[i]), entries[i + 1]]);
    }
  }
  const root = makeNode(null, "", "Everything", () => data.kinds.map(kindNode).filter((kind) => kind.files));

  function kindNode([kind, title]) {
    const node = makeNode(root, kind, title, () =>
      data.origins.flatMap((origin, index) =>
        (origin.kind === kind && owned[index].length ? [originNode(node, index)] : [])));
    node.kind = kind;
    return measure(node, data.origins.flatMap((origin, index) => (origin.kind === kind ? owned[index] : [])));
  }

  function originNode(parent, index) {
    const entries = owned[index];
    const folder = sharedFolder(entries);
    const node = makeNode(parent, String(index), data.origins[index].what, () =>
      (entries.length === 1 ? [] : folderChildren(node, entries, folder)));
    node.origin = index;
    node.path = entries.length === 1 ? entries[0][0] : folder || "/";
    node.isOrigin = true;
    return measure(node, entries);
  }

  return measure(root, owned.flat());
}

function measure(node, entries) {
  node.files = entries.length;
  node.size = entries.reduce((sum, entry) => sum + entry[1], 0);
  return node;
}

// The files and folders right in `folder`; a folder that holds one folder alone is passed through.
function folderChildren(parent, entries, folder) {
  const groups = new Map();
  for (const entry of entries) {
    const name = entry[0].slice(folder.length + 1).split("/", 1)[0];
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(entry);
  }
  return [...groups].map(([name, inside]) => {
    const isFile = inside.length === 1 && inside[0][0].length === folder.length + 1 + name.length;
    const shared = isFile ? inside[0][0] : sharedFolder(inside);
    const shown = shared.slice(folder.length + 1);
    const node = makeNode(parent, shown, isFile ? shown : `${shown}/`, () =>
      (isFile ? [] : folderChildren(node, inside, shared)));
    node.path = shared;
    return measure(node, inside);
  });
}

// The deepest folder that holds all entries, without a slash at its end.
function sharedFolder(entries) {
  let parts = entries[0][0].split("/").slice(0, -1);
  for (const [path] of entries) {
    const other = path.split("/");
    let same = 0;
    while (same < parts.length && same < other.length - 1 && parts[same] === other[same]) same += 1;
    parts = parts.slice(0, same);
  }
  return parts.join("/");
}

const hashOf = (node) => `#${pathOf(node).slice(1).map((step) => encodeURIComponent(step.id)).join("/")}`;
const pathOf = (node) => (node ? [...pathOf(node.parent), node] : []);

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

// The node that a fragment of the address means, #KIND/ORIGIN/... or #/PATH; as much of it as is there.
function nodeAt(root, data, hash) {
  let node = root;
  if (hash.startsWith("#/")) return nodeOfPath(root, data, decoded(hash.slice(1)));
  for (const part of hash.replace(/^#/, "").split("/").filter(Boolean)) {
    const id = decoded(part);
    const next = id === "+" ? node.more : node.children().find((child) => child.id === id);
    if (!next) break;
    node = next;
  }
  return node;
}

// The node of a file, by its path.
function nodeOfPath(root, data, path) {
  const cut = path.lastIndexOf("/");
  const entries = data.files[path.slice(0, cut) || "/"] || [];
  const at = entries.findIndex((name, index) => index % 3 === 0 && name === path.slice(cut + 1));
  if (at < 0) return root;
  let node = nodeAt(root, data, `${data.origins[entries[at + 2]].kind}/${entries[at + 2]}`);
  for (let next = node; next; next = node.path !== path
    && node.children().find((child) => path === child.path || path.startsWith(`${child.path}/`))) node = next;
  return node;
}

// What matches the text, the best first: [rank, name, detail, size, origin, path or null].
function search(data, text, most) {
  const wanted = text.trim().toLowerCase();
  const found = [];
  if (!wanted) return found;
  const rank = (name) => (name === wanted ? 0 : name.startsWith(wanted) ? 1 : name.includes(wanted) ? 2 : 9);
  data.origins.forEach((origin, index) => {
    const names = [origin.what, origin.what.split(" ")[0], ...origin.imports];
    const best = Math.min(...names.map((name) => rank(name.toLowerCase())));
    if (best < 9 && origin.size) found.push([best, origin.what, origin.text, origin.size, index, null]);
  });
  for (const folder of Object.keys(data.files)) {
    const entries = data.files[folder];
    const whole = wanted.includes("/");
    for (let i = 0; i < entries.length; i += 3) {
      const path = joined(folder, entries[i]);
      const best = rank((whole ? path : entries[i]).toLowerCase());
      if (best < 9) found.push([best + 3, entries[i], path, entries[i + 1], entries[i + 2], path]);
    }
  }
  return found.sort((a, b) => a[0] - b[0] || b[3] - a[3]).slice(0, most);
}
