// Descriptions and tags between the API and the console's forms: what a form shows of them, and what of it is sent.
//
// Neither document nor network here, so that a test runs it without a browser. A text that nobody touched is never sent,
// and what is sent is what was typed: the server's rules say what may be stored, nothing is trimmed or unquoted before.
'use strict';

/** A line for each tag. Tag values have no line ends in them, so the lines say all of it. */
function tagLines(tags) {
  return Object.entries(tags ?? {}).sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, content]) => `${key}=${content}`).join('\n');
}

/** The tags of such lines. Everything after the first `=` is the value, blanks and quotes included. */
function parseTagLines(source) {
  return collect(source.split(/\r\n?|\n/).filter((line) => line.trim() !== ''));
}

/** The tags of `env=prod team="search and ads"`: blanks between them, quotes around a value that has some. */
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
    // A key of this name would otherwise set the object's prototype.
    Object.defineProperty(found, key, { value: pair.slice(at + 1), enumerable: true, configurable: true });
  }
  return found;
}

function wrong(description) {
  return Object.assign(new Error(description), { violations: [{ field: 'tags', description }] });
}

/** The keys whose values begin or end with a blank: easily typed, kept, and hard to see. */
function strayTags(source) {
  try {
    return Object.entries(parseTagLines(source)).filter(([, content]) => content !== content.trim()).map(([key]) => key);
  } catch {
    return [];
  }
}

/** What of a form differs from the secret it was filled from, with the mask that names it; null if nothing does. */
function changes(secret, form) {
  const changed = {};
  // A control shows every line end as one line feed; that alone is no change.
  const shown = (text) => (text ?? '').replace(/\r\n?/g, '\n');
  if (form.description !== shown(secret.description)) changed.description = form.description;
  const tags = parseTagLines(form.tags);
  if (tagLines(tags) !== tagLines(secret.tags)) changed.tags = tags;
  const fields = Object.keys(changed);
  return fields.length ? { ...changed, update_mask: fields.join(',') } : null;
}
