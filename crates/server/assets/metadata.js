// Conversion of descriptions and tags between the API and the forms of the console.
//
// It uses neither the document nor the network, so a test runs it without a browser. Unchanged text is never sent. Changed
// text is sent exactly as typed: the server decides what it accepts, and nothing is trimmed or unquoted before.
'use strict';

/** One line for each tag. Tag values contain no line breaks, so the lines are lossless. */
function tagLines(tags) {
  return Object.entries(tags ?? {}).sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, content]) => `${key}=${content}`).join('\n');
}

/** Parses such lines. Everything after the first `=` is the value, including spaces and quotes. */
function parseTagLines(source) {
  return collect(source.split(/\r\n?|\n/).filter((line) => line.trim() !== ''));
}

/** Parses `env=prod team="search and ads"`: spaces separate tags, quotes enclose a value with spaces. */
function parseTagWords(source) {
  const words = source.match(/[^\s"=]+(="[^"]*"|\S*)/g) ?? [];
  return collect(words.map((word) => word.replace(/^([^=]+)="(.*)"$/, '$1=$2')));
}

function collect(pairs) {
  const found = {};
  for (const pair of pairs) {
    const at = pair.indexOf('=');
    const key = pair.slice(0, Math.max(at, 0)).trim();
    if (key === '') throw wrong('must be written as key=value');
    if (Object.hasOwn(found, key)) throw wrong(`must not have ${key} twice`);
    // Assignment would set the prototype for the key `__proto__`.
    Object.defineProperty(found, key, { value: pair.slice(at + 1), enumerable: true, configurable: true });
  }
  return found;
}

function wrong(description) {
  return Object.assign(new Error(description), { violations: [{ field: 'tags', description }] });
}

/** The keys whose values begin or end with a space. The server keeps such spaces. */
function strayTags(source) {
  try {
    return Object.entries(parseTagLines(source)).filter(([, content]) => content !== content.trim()).map(([key]) => key);
  } catch {
    return [];
  }
}

/** The fields of a form that differ from its secret, with an update mask; null if none differs. */
function changes(secret, form) {
  const changed = {};
  // A control converts every line break to one line feed. That alone is not a change.
  const shown = (text) => (text ?? '').replace(/\r\n?/g, '\n');
  if (form.description !== shown(secret.description)) changed.description = form.description;
  const tags = parseTagLines(form.tags);
  if (tagLines(tags) !== tagLines(secret.tags)) changed.tags = tags;
  const fields = Object.keys(changed);
  return fields.length ? { ...changed, update_mask: fields.join(',') } : null;
}
