// Console: a page over the REST API, without a build step and without a library.
//
// The API key is in `session.key` and nowhere else: not in storage, not in a URL, and not in the document after it is
// submitted. A form sends values of secrets to the server. This page never reads a value. Text from the server enters the
// document as text nodes (`h`), never as markup.
//
// metadata.js decides what a form shows of a secret and what it sends.
//
// Controls have no `name`, so a form sends nothing if the browser itself submits it.
'use strict';

const KEY = /^ak-[0-9A-Za-z]{16}_[0-9A-Za-z]{49}$/;
const IDLE_MS = 30 * 60 * 1000;
const VALUE_LIMIT = 64 * 1024;
/** Most tags of a secret that the list shows. Its details show all of them. */
const MOST_TAGS = 6;
const STATUS = { active: 'Active', rotated_pending: 'Pending', retired: 'Retired' };
const GRACES = [['', 'Default of the server (24 hours unless configured)'], ['0s', 'None: retire at once'], ['3600s', '1 hour'],
  ['21600s', '6 hours'], ['86400s', '24 hours'], ['259200s', '3 days'], ['604800s', '7 days'], ['2592000s', '30 days']];

const session = { key: null, idle: 0, expires: 0, tokens: [''], loading: null, realms: new Set() };
const $ = (id) => document.getElementById(id);

// ---- Key: set and clear

$('gate-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const input = $('gate-key');
  // People paste a whole line of bootstrap.env, or the key without its prefix.
  const bare = input.value.trim().replace(/^(export\s+)?AGENTROUTER_API_KEY=/, '').replace(/^["']|["']$/g, '').replace(/^ak-/, '');
  input.value = '';
  if (!KEY.test(`ak-${bare}`)) {
    return refuseKey('This is not a complete key. A key has 16 characters, an underscore and 49 characters, with or without “ak-” in front.');
  }
  session.key = `ak-${bare}`;
  refuseKey('');
  $('session-key').textContent = `${session.key.slice(0, 19)}_••••`;
  $('session').hidden = $('desk').hidden = false;
  $('gate').hidden = true;
  stayAwake();
  $('main').focus();
  await load();
});

/** Clears the key and everything that was shown with it. */
function forget(why = '') {
  session.loading?.abort();
  Object.assign(session, { key: null, tokens: [''], realms: new Set(), loading: null });
  clearTimeout(session.idle);
  $('ledger').setAttribute('aria-busy', 'false');
  for (const dialog of [$('card'), $('sheet')]) close(dialog);
  for (const id of ['rows', 'empty', 'realms']) $(id).replaceChildren();
  for (const id of ['session-key', 'count', 'page-number']) $(id).textContent = '';
  $('filters').reset();
  $('session').hidden = $('desk').hidden = $('toast').hidden = true;
  $('gate').hidden = false;
  refuseKey(why);
}

function refuseKey(why) {
  $('gate-key-error').textContent = why;
  $('gate-key').setAttribute('aria-invalid', String(why !== ''));
  if (!session.key) $('gate-key').focus();
}

function stayAwake() {
  clearTimeout(session.idle);
  if (!session.key) return;
  session.expires = Date.now() + IDLE_MS;
  session.idle = setTimeout(forgetIdle, IDLE_MS);
}

function forgetIdle() {
  forget('The page cleared the key after 30 idle minutes. Paste it again.');
}

$('forget').addEventListener('click', () => forget());
// The browser can keep a page for the Back button, and the key with it.
addEventListener('pagehide', () => forget());
// Timers stop while the machine sleeps; the clock does not. So each event checks the clock.
function wake() {
  if (session.key && Date.now() >= session.expires) forgetIdle();
  else stayAwake();
}
for (const kind of ['pointerdown', 'keydown']) addEventListener(kind, wake, { passive: true, capture: true });
document.addEventListener('visibilitychange', () => { if (session.key && Date.now() >= session.expires) forgetIdle(); });

// ---- The list

$('filters').addEventListener('submit', (event) => { event.preventDefault(); restart(); });
$('clear').addEventListener('click', () => { $('filters').reset(); restart(); });
$('filter-status').addEventListener('change', () => restart());
$('page-size').addEventListener('change', () => restart());
$('next').addEventListener('click', () => { session.tokens.push($('next').token); load(); });
$('previous').addEventListener('click', () => { session.tokens.pop(); load(); });
$('create').addEventListener('click', () => create());

function restart() {
  session.tokens = [''];
  return load();
}

/** Loads the page of the last token, and shows it or the error. */
async function load() {
  session.loading?.abort();
  const loading = session.loading = new AbortController();
  const fields = { prefix: $('filter-prefix').value.trim(), realm: $('filter-realm').value.trim(), status: $('filter-status').value };
  const query = new URLSearchParams();
  try {
    showViolations($('filters'), [], $('filter-error'));
    for (const [key, value] of Object.entries(parseTagWords($('filter-tags').value))) query.append(`tags[${key}]`, value);
  } catch (error) {
    return showViolations($('filters'), error.violations, $('filter-error'));
  }
  if (fields.prefix) query.set('name_prefix', fields.prefix);
  if (fields.realm) query.set('realm', fields.realm);
  if (fields.status) query.set('status', fields.status);
  const filtered = query.size > 0;
  query.set('page_size', $('page-size').value);
  if (session.tokens.at(-1)) query.set('page_token', session.tokens.at(-1));

  const ghosts = setTimeout(showGhosts, 150);
  $('ledger').setAttribute('aria-busy', 'true');
  try {
    const page = await call('GET', `/v1/secrets?${query}`, { signal: loading.signal });
    clearTimeout(ghosts);
    showPage(page, filtered);
  } catch (error) {
    clearTimeout(ghosts);
    if (error.name === 'AbortError') return;
    if (error.reason === 'PAGE_TOKEN_INVALID' && session.tokens.length > 1) return restart();
    showListError(error);
  }
  $('ledger').setAttribute('aria-busy', 'false');
}

function showPage(page, filtered) {
  const secrets = page.secrets ?? [];
  $('rows').replaceChildren(...secrets.map(row));
  $('next').token = page.next_page_token ?? '';
  $('next').disabled = !$('next').token;
  $('previous').disabled = session.tokens.length < 2;
  // A page may be empty and not the last.
  $('pager').hidden = secrets.length === 0 && !$('next').token && session.tokens.length < 2;
  $('page-number').textContent = session.tokens.length > 1 || $('next').token ? `Page ${session.tokens.length}` : '';
  const count = secrets.length === 1 ? '1 secret' : `${secrets.length} secrets`;
  $('count').textContent = secrets.length === 0 ? '' : $('next').token || session.tokens.length > 1 ? `${count} on this page` : count;
  secrets.forEach((secret) => session.realms.add(secret.realm));
  $('realms').replaceChildren(...[...session.realms].sort().map((realm) => h('option', { value: realm })));
  showEmpty(secrets.length > 0 || $('next').token ? null : filtered
    ? [h('h2', {}, 'Nothing matches'), h('p', {}, 'No secret that this key can see matches all filters.'),
       h('button', { type: 'button', onclick: () => $('clear').click() }, 'Clear filters')]
    : [h('h2', {}, 'No secrets yet'),
       h('p', {}, 'Create the first secret here, or import a whole .env file:'),
       h('pre', {}, h('code', {}, 'tare secret import providers.env --realm llm-keys')),
       h('button', { type: 'button', class: 'primary', onclick: () => create() }, 'New secret')]);
}

function row(secret) {
  const open = h('button', { type: 'button', class: 'link name', onclick: () => show(secret) }, secret.name);
  return h('tr', { onclick: (event) => { if (!event.target.closest('button') && !getSelection().toString()) open.click(); } },
    h('td', { class: 'title' }, open),
    h('td', { class: 'realm' }, secret.realm),
    h('td', { class: 'state' }, status(secret)),
    h('td', { class: 'number version' }, String(secret.version)),
    h('td', { class: 'tagged' }, tags(secret, MOST_TAGS)),
    h('td', { class: 'when' }, time(secret.updated_at)));
}

function showGhosts() {
  showEmpty(null);
  $('rows').replaceChildren(...Array.from({ length: 6 }, () =>
    h('tr', { class: 'ghost', 'aria-hidden': 'true' }, ...Array.from({ length: 6 }, () => h('td', {}, h('span', {}))))));
}

function showEmpty(content) {
  $('empty').hidden = !content;
  $('empty').replaceChildren(...(content ?? []));
}

function showListError(error) {
  $('rows').replaceChildren();
  $('count').textContent = '';
  $('next').disabled = true;
  $('previous').disabled = session.tokens.length < 2;
  showViolations($('filters'), error.violations ?? [], $('filter-error'));
  showEmpty([h('h2', {}, error.status === 0 ? 'The server cannot be reached' : 'The list cannot be shown'),
    h('p', {}, error.message, explain(error)), h('button', { type: 'button', onclick: () => load() }, 'Try again')]);
}

// ---- One secret

/** Opens the details of a secret. `note` says what was just done to it. */
async function show(secret, note = '') {
  const sheet = $('sheet');
  draw(secret, null, note);
  if (!sheet.open) sheet.showModal();
  try {
    const query = new URLSearchParams({ realm: secret.realm });
    const every = new URLSearchParams({ realm: secret.realm, status: 'any', name_prefix: secret.name, page_size: '1000' });
    const [now, page] = await Promise.all([call('GET', `${path(secret)}?${query}`), call('GET', `/v1/secrets?${every}`)]);
    const versions = page.secrets.filter((other) => other.name === secret.name).sort((a, b) => b.version - a.version);
    if (sheet.open && sheet.shown === secret) draw(now.secret, versions, note);
  } catch (error) {
    if (sheet.open && sheet.shown === secret) $('sheet-note').replaceChildren(error.message, explain(error));
  }

  function draw(current, versions, said) {
    sheet.shown = secret;
    const verdict = h('div', { class: said ? 'note good' : 'note bad', id: 'sheet-note', role: 'status' }, said);
    const validate = h('button', { type: 'button', onclick: () => check(current, validate, verdict) }, 'Validate');
    sheet.replaceChildren(
      h('header', {}, h('h2', { id: 'sheet-title', class: 'name' }, current.name), closer(sheet)),
      h('div', { class: 'body' },
        h('div', { class: 'actions' },
          h('button', { type: 'button', class: 'primary', onclick: () => rotate(current) }, 'Rotate'), validate,
          h('button', { type: 'button', onclick: () => edit(current) }, 'Edit'),
          h('button', { type: 'button', class: 'danger-quiet end', onclick: () => remove(current) }, 'Delete')),
        verdict,
        h('dl', { class: 'facts' }, ...[
          ['Status', status(current)], ['Version', String(current.version)],
          ['Realm', h('span', { class: 'mono' }, current.realm)], ['Owner', h('span', { class: 'mono' }, current.user_id)],
          ['Description', h('span', { class: 'as-is' }, current.description || '—')], ['Tags', Object.keys(current.tags ?? {}).length ? tags(current) : '—'],
          ['Created', time(current.created_at, true)], ['Changed', time(current.updated_at, true)],
          ['Rotated', current.rotated_at ? time(current.rotated_at, true) : 'never'],
          ['Id', h('span', { class: 'mono' }, current.id)], ['KEK', h('span', { class: 'mono' }, current.kek_id)],
        ].flatMap(([term, fact]) => [h('dt', {}, term), h('dd', {}, fact)])),
        h('div', { class: 'group' }, h('h3', {}, 'Versions'),
          versions ? h('ol', { class: 'versions' }, ...versions.map(version)) : h('p', { class: 'hint' }, 'Loading…')),
        h('div', { class: 'group' }, h('h3', {}, 'Read it from a service'), copied(curlFor(current)),
          h('p', { class: 'hint' }, 'This needs a key with the scope secrets/read/internal. The console never shows values.'))));
  }
}

function version(item) {
  const fate = item.status === 'rotated_pending' && item.expires_at ? ['readable until ', time(item.expires_at, true)]
    : item.status === 'retired' ? ['ciphertext destroyed'] : ['read by default'];
  return h('li', {}, h('span', { class: 'mono' }, `v${item.version}`), status(item), h('span', { class: 'fate' }, ...fate));
}

async function check(secret, button, verdict) {
  button.disabled = true;
  try {
    const result = await call('POST', `${path(secret)}/validate`, { body: { realm: secret.realm } });
    verdict.className = result.valid ? 'note good' : 'note bad';
    verdict.replaceChildren(result.valid ? 'Every readable version opens.' : `These versions do not open: ${result.error}.`);
  } catch (error) {
    verdict.className = 'note bad';
    verdict.replaceChildren(error.message, explain(error));
  }
  button.disabled = false;
}

function curlFor(secret) {
  return `curl -X POST "\${AGENTROUTER_BASE_URL}${path(secret)}/value" \\\n  -H "Authorization: Bearer ak-\${AGENTROUTER_API_KEY}" \\\n`
    + `  -H "Content-Type: application/json" \\\n  -d '${JSON.stringify({ realm: secret.realm, user_id: secret.user_id })}'`;
}

// ---- Changes, each a card with a form

function create() {
  card({
    title: 'New secret', verb: 'Create', busy: 'Creating…',
    fields: [
      [text('name', 'Name', { hint: 'Letters, digits and . _ - For example: openai-api-key' }),
       text('realm', 'Realm', { optional: true, list: 'realms', hint: 'Default: the current realm of the key' })],
      value('value', 'Value'),
      area('description', 'Description', {}),
      tagArea(''),
      h('details', {}, h('summary', {}, 'For another owner'),
        text('user_id', 'User id', { optional: true, hint: 'Needs the scope secrets/write/internal. Secrets in LLM realms always belong to system.' })),
    ],
    async submit(form) {
      const body = { name: form.name, realm: form.realm, value: form.value, description: form.description,
        tags: parseTagLines(form.tags), user_id: form.user_id, expected_version: 0 };
      if (!body.user_id) delete body.user_id;
      const { secret } = await call('POST', '/v1/secrets', { body }).catch((error) => {
        if (error.reason === 'VERSION_MISMATCH') Object.assign(error, {
          message: '', violations: [{ field: 'name', description: 'exists already in this realm; open that secret, then rotate or edit it' }] });
        throw error;
      });
      await restart();
      toast(`${secret.name} is stored in ${secret.realm}.`);
    },
  });
}

function rotate(secret) {
  card({
    title: `Rotate ${secret.name}`, verb: 'Rotate', busy: 'Rotating…',
    lead: `The new value becomes version ${secret.version + 1}. Version ${secret.version} stays readable by its number for the grace period.`,
    fields: [value('new_value', 'New value'),
      field('grace_period', 'Grace period', h('select', {}, ...GRACES.map(([grace, label]) => h('option', { value: grace }, label))), {})],
    async submit(form) {
      const body = { realm: secret.realm, new_value: form.new_value, expected_version: secret.version };
      if (form.grace_period) body.grace_period = form.grace_period;
      const result = await call('POST', `${path(secret)}/rotate`, { body });
      load();
      show(result.secret, `Version ${result.secret.version} is active.`);
    },
  });
}

function edit(secret) {
  card({
    title: `Edit ${secret.name}`, verb: 'Save', busy: 'Saving…', lead: 'The value does not change.',
    fields: [area('description', 'Description', { value: secret.description }), tagArea(tagLines(secret.tags))],
    async submit(form) {
      const changed = changes(secret, form);
      if (!changed) return show(secret, 'Nothing was changed.');
      const body = { name: secret.name, realm: secret.realm, user_id: secret.user_id, expected_version: secret.version, ...changed };
      const result = await call('POST', '/v1/secrets', { body });
      load();
      show(result.secret, 'Saved.');
    },
  });
}

function remove(secret) {
  const confirm = text('name', `Type ${secret.name} to confirm`, {});
  const { button } = card({
    title: `Delete ${secret.name}`, verb: 'Delete', busy: 'Deleting…', danger: true,
    lead: 'This destroys all versions and their keys. Services that read this secret will fail. You cannot undo this.',
    fields: [confirm],
    async submit() {
      await call('DELETE', `${path(secret)}?${new URLSearchParams({ realm: secret.realm })}`);
      close($('sheet'));
      await load();
      toast(`${secret.name} is deleted.`);
    },
  });
  button.disabled = true;
  confirm.querySelector('input').addEventListener('input', (event) => { button.disabled = event.target.value !== secret.name; });
}

/** Opens a card with a form. `submit` gets the texts of the fields. The card shows the error that it throws. */
function card({ title, lead, fields, verb, busy, danger, submit }) {
  const dialog = $('card');
  const note = h('div', { class: 'note bad', role: 'alert' });
  const button = h('button', { type: 'submit', class: danger ? 'danger' : 'primary' }, verb);
  const form = h('form', { class: 'body', novalidate: true, autocomplete: 'off' },
    lead ? h('p', { class: 'hint' }, lead) : '', note,
    ...fields.map((item) => Array.isArray(item) ? h('div', { class: 'pair' }, ...item) : item),
    h('div', { class: 'foot' }, h('button', { type: 'button', onclick: () => close(dialog) }, 'Cancel'), button));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    button.disabled = true;
    button.textContent = busy;
    showViolations(form, [], note);
    const controls = [...form.querySelectorAll('[data-field]')];
    try {
      const empty = controls.filter((control) => control.required && control.value === '');
      if (empty.length) throw new Refused({ violations: empty.map((control) => ({ field: control.dataset.field, description: 'must be set' })) });
      await submit(Object.fromEntries(controls.map((control) =>
        [control.dataset.field, control.dataset.exact ? control.value : control.value.trim()])));
      close(dialog);
    } catch (error) {
      if (!dialog.open || error.name === 'AbortError') return;
      showViolations(form, error.violations ?? [], note, error);
    } finally {
      button.disabled = false;
      button.textContent = verb;
    }
  });
  dialog.replaceChildren(h('header', {}, h('h2', { id: 'card-title' }, title)), form);
  dialog.showModal();
  form.querySelector('[data-field]').focus();
  return { button };
}

/** Closes a dialog and clears everything that was typed into it. */
function close(dialog) {
  for (const control of dialog.querySelectorAll('input, textarea')) control.value = '';
  if (dialog.open) dialog.close();
  dialog.replaceChildren();
  // The element that had the focus may not exist any more, such as the row of a changed secret.
  if (document.activeElement === document.body) $('main').focus();
}

for (const dialog of [$('card'), $('sheet')]) {
  dialog.addEventListener('cancel', (event) => { event.preventDefault(); close(dialog); });
  // The backdrop belongs to the dialog. A press on it closes the details, but not a card with unsaved input.
  dialog.addEventListener('pointerdown', (event) => {
    if (event.target === dialog && dialog.id === 'sheet' && event.clientX < dialog.getBoundingClientRect().left) close(dialog);
  });
}

// ---- Fields

let serial = 0;

/** A label, a control, its hint and its error, connected for assistive technology. */
function field(name, label, control, { hint = '', optional = false, below = [] }) {
  const id = `field-${++serial}`;
  const describing = [`${id}-error`, ...(hint ? [`${id}-hint`] : [])].join(' ');
  for (const [key, content] of Object.entries({ id, 'data-field': name, 'aria-describedby': describing })) control.setAttribute(key, content);
  return h('div', { class: 'field' },
    h('label', { for: id }, label, optional ? h('span', { class: 'optional' }, ' (optional)') : ''), control,
    h('p', { class: 'error', id: `${id}-error` }), hint ? h('p', { class: 'hint', id: `${id}-hint` }, hint) : '', ...below);
}

const plain = { autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false' };

function text(name, label, options) {
  return field(name, label, h('input', { type: 'text', ...plain, value: options.value ?? '', list: options.list, required: !options.optional }), options);
}

/** A field of several lines. Its text is sent unchanged. */
function area(name, label, options) {
  const control = h('textarea', { ...plain, rows: '3', 'data-exact': 'true' });
  control.value = options.value ?? '';
  return field(name, label, control, { optional: true, ...options });
}

/** A field for tags. It warns of leading and trailing spaces. */
function tagArea(lines) {
  const stray = h('p', { class: 'hint wait', role: 'status' });
  const box = area('tags', 'Tags', { value: lines, hint: 'One tag a line, such as env=prod', below: [stray] });
  box.addEventListener('input', (event) => {
    const keys = strayTags(event.target.value);
    stray.textContent = keys.length ? `These values begin or end with a space, and the server keeps it: ${keys.join(', ')}.` : '';
  });
  return box;
}

/** A field for a value: hidden by default, never trimmed. It shows the size and warns of white space at either end. */
function value(name, label) {
  const control = h('textarea', { ...plain, rows: '4', class: 'covered', required: true, 'data-exact': 'true', 'data-1p-ignore': '', 'data-lpignore': 'true' });
  const size = h('p', { class: 'hint', role: 'status' }, 'At most 64 KiB. The server encrypts it before it stores it.');
  const reveal = h('input', { type: 'checkbox', onchange: () => control.classList.toggle('covered', !reveal.checked) });
  control.addEventListener('input', () => {
    const bytes = new TextEncoder().encode(control.value).length;
    const stray = control.value !== control.value.trim();
    size.className = stray || bytes > VALUE_LIMIT ? 'hint wait' : 'hint';
    size.textContent = bytes > VALUE_LIMIT ? `${bytes.toLocaleString('en')} bytes. The limit is 65,536 bytes.`
      : `${bytes.toLocaleString('en')} bytes.${stray ? ' It begins or ends with a space or a line break, and the server keeps it.' : ''}`;
  });
  return field(name, label, control, { below: [h('div', { class: 'under' }, size, h('label', { class: 'check' }, reveal, 'Show'))] });
}

/** Shows each violation beside the control of its field and the rest in `note`. Focuses the first such control. */
function showViolations(form, violations, note, error) {
  for (const control of form.querySelectorAll('[data-field]')) {
    control.removeAttribute('aria-invalid');
    const place = document.getElementById(`${control.id}-error`);
    if (place) place.textContent = '';
  }
  const homeless = [];
  const faulty = [];
  for (const { field: name, description } of violations) {
    const control = form.querySelector(`[data-field="${CSS.escape(name.split(/[.[]/)[0])}"]`);
    const place = control && document.getElementById(`${control.id}-error`);
    control?.setAttribute('aria-invalid', 'true');
    if (control) faulty.push(control);
    if (place) place.textContent = sentence(description);
    else homeless.push(`${name} ${description}`);
  }
  const nothingPlaced = error && faulty.length === 0;
  note.replaceChildren(...(nothingPlaced ? [error.message, explain(error)] : [homeless.map(sentence).join(' ')]));
  for (const control of faulty) control.closest('details')?.setAttribute('open', '');
  faulty[0]?.focus();
}

// ---- The API

/** A call that failed with an error response, or without a response (`status` 0). */
class Refused extends Error {
  constructor({ status = 400, message = '', reason = '', violations = [], retryAfter = '', requestId = '' }) {
    super(message || violations.map((item) => `${item.field} ${item.description}`).join('; '));
    Object.assign(this, { status, reason, violations, retryAfter, requestId });
  }
}

/** Makes one call and returns the JSON of the response. Throws `Refused`, or `AbortError`. */
async function call(method, route, { body, signal } = {}) {
  const headers = { Authorization: `Bearer ${session.key}`, Accept: 'application/json' };
  if (body) headers['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(route, { method, headers, signal, body: body && JSON.stringify(body), cache: 'no-store', credentials: 'omit', referrerPolicy: 'no-referrer' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refused({ status: 0, message: 'There was no response. Check that the server runs and that this machine can reach it.' });
  }
  const result = await response.json().catch(() => ({}));
  if (response.ok) return result;
  const detail = (name) => (result.details ?? []).find((item) => String(item['@type']).endsWith(name)) ?? {};
  const refused = new Refused({
    status: response.status,
    message: result.message || `The server returned status ${response.status}.`,
    reason: detail('google.rpc.ErrorInfo').reason,
    violations: detail('google.rpc.BadRequest').field_violations ?? detail('google.rpc.BadRequest').fieldViolations,
    retryAfter: response.headers.get('retry-after') ?? '',
    requestId: response.headers.get('x-request-id') ?? '',
  });
  if (response.status === 401) {
    forget('The server rejected this key: it is unknown, revoked or expired. Paste another key.');
    throw new DOMException('signed out', 'AbortError');
  }
  throw refused;
}

const path = (secret) => `/v1/secrets/${encodeURIComponent(secret.name)}`;

/** The details of an error for programs: the reason, the wait, the request id. */
function explain(error) {
  const facts = [error.reason, error.retryAfter && `try again in ${error.retryAfter} s`, error.requestId && `request ${error.requestId}`].filter(Boolean);
  return facts.length ? h('small', {}, facts.join(' · ')) : '';
}

// ---- Pieces

/** Creates an element. Strings become text nodes, and `on…` attributes become listeners. Markup cannot be passed. */
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [key, content] of Object.entries(attributes)) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), content);
    else if (content !== undefined && content !== false) element.setAttribute(key, content === true ? '' : content);
  }
  element.append(...children);
  return element;
}

const status = (secret) => h('span', { class: `status ${secret.status in STATUS ? secret.status : ''}` }, STATUS[secret.status] ?? secret.status);
/** The tags of a secret. Of more than `most`, the first ones and the number of the others. */
function tags(secret, most = Infinity) {
  const all = Object.entries(secret.tags ?? {}).sort();
  const some = all.length > most ? all.slice(0, most - 1) : all;
  return h('span', { class: 'tags' }, ...some.map(([key, content]) => h('span', { class: 'tag' }, `${key}=${content}`)),
    all.length > some.length ? h('span', { class: 'hint' }, `and ${all.length - some.length} more`) : '');
}

const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1) + (words.endsWith('.') ? '' : '.');
const closer = (dialog) => h('button', { type: 'button', class: 'quiet', onclick: () => close(dialog) }, 'Close');

/** A time: relative, or in full with `long`. Hovering shows the other form. */
function time(stamp, long = false) {
  if (!stamp) return '—';
  const date = new Date(stamp);
  const full = date.toLocaleString('en', { dateStyle: 'medium', timeStyle: 'short' });
  const distance = (date - Date.now()) / 1000;
  const [unit, size] = [['year', 31557600], ['month', 2629800], ['day', 86400], ['hour', 3600], ['minute', 60]].find(([, seconds]) => Math.abs(distance) >= seconds) ?? ['second', 1];
  const near = Math.abs(distance) < 60 ? (distance > 0 ? 'in a moment' : 'just now')
    : new Intl.RelativeTimeFormat('en', { numeric: 'auto' }).format(Math.trunc(distance / size), unit);
  return h('time', { datetime: stamp, title: long ? stamp : full }, long ? `${full} (${near})` : near);
}

/** A command, with a button that copies it if the browser allows that. */
function copied(command) {
  const button = h('button', { type: 'button', onclick: async () => {
    await navigator.clipboard.writeText(command);
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  } }, 'Copy');
  return h('div', { class: 'copied' }, h('pre', { tabindex: '0' }, h('code', {}, command)), navigator.clipboard ? button : '');
}

function toast(words) {
  $('toast').textContent = words;
  $('toast').hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { $('toast').hidden = true; }, 5000);
}
