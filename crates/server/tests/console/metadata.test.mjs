// The console's texts, without a browser: node --test crates/server/tests/console/
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import vm from 'node:vm';

const page = vm.createContext({});
vm.runInContext(readFileSync(new URL('../../assets/metadata.js', import.meta.url), 'utf8'), page);
// Objects of another realm are never deeply equal to ones of this.
const here = (value) => JSON.parse(JSON.stringify(value));
const changes = (secret, form) => here(page.changes(secret, form));
const filled = (secret) => ({ description: secret.description.replace(/\r\n?/g, '\n'), tags: page.tagLines(secret.tags) });

const AWKWARD = {
  description: ' two\r\nlines, a tab\t and a blank at the end ',
  tags: { q: '"quoted value"', sp: '  spaced  ', eq: 'a=b=c', empty: '', uni: 'ключ 鍵 🔑', 'a/b:c': "'x'" },
};

test('an unchanged form changes nothing, whatever is stored', () => {
  for (const secret of [AWKWARD, { description: '', tags: {} }, { description: 'plain', tags: { env: 'prod' } }]) {
    assert.equal(changes(secret, filled(secret)), null);
  }
});

test('only the field that was changed is sent', () => {
  assert.deepEqual(changes(AWKWARD, { ...filled(AWKWARD), description: 'new\nlines\n' }),
    { description: 'new\nlines\n', update_mask: 'description' });
  assert.deepEqual(changes(AWKWARD, { ...filled(AWKWARD), tags: 'env= prod ' }),
    { tags: { env: ' prod ' }, update_mask: 'tags' });
  assert.deepEqual(changes(AWKWARD, { description: '', tags: '' }),
    { description: '', tags: {}, update_mask: 'description,tags' });
});

test('tags on lines come back as they were, with their blanks, quotes and equals signs', () => {
  assert.deepEqual(here(page.parseTagLines(page.tagLines(AWKWARD.tags))), AWKWARD.tags);
  assert.deepEqual(here(page.parseTagLines('\n  a=1\r\n\nb="x"\n')), { a: '1', b: '"x"' });
  assert.equal(page.parseTagLines('__proto__=x').x, undefined);
  assert.deepEqual(Object.keys(page.parseTagLines('__proto__=x')), ['__proto__']);
});

test('the order of tags is no change', () => {
  assert.equal(changes(AWKWARD, { ...filled(AWKWARD), tags: page.tagLines(AWKWARD.tags).split('\n').reverse().join('\n') }), null);
});

test('a filter takes words, and quotes around what has blanks', () => {
  assert.deepEqual(here(page.parseTagWords('env=prod  team="search and ads" n=')), { env: 'prod', team: 'search and ads', n: '' });
  assert.deepEqual(here(page.parseTagWords('')), {});
});

test('what is no tag is refused beside its field', () => {
  for (const [read, source] of [['parseTagLines', 'env'], ['parseTagLines', '=x'], ['parseTagWords', 'prod'], ['parseTagLines', 'a=1\na=2'], ['parseTagWords', 'a=1 a=1']]) {
    assert.throws(() => page[read](source), (error) => error.violations[0].field === 'tags', source);
  }
});

test('a blank that is easily overlooked is named', () => {
  assert.deepEqual(here(page.strayTags('env = prod\nteam=ads\nx=y ')), ['env', 'x']);
  assert.deepEqual(here(page.strayTags('no tag')), []);
});
