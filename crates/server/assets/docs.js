// API page: shows the content of /openapi.json, as text and never as markup.
'use strict';

const ORDER = ['CreateSecret', 'GetSecret', 'ListSecrets', 'RotateSecret', 'ValidateSecret', 'GetSecretValue', 'DeleteSecret'];

/** Example values by field name, in this order. The examples omit other fields. */
const SAMPLES = { name: 'openai-api-key', realm: 'llm-keys', description: 'OpenAI, production gateway', value: 'sk-proj-first-value',
  new_value: 'sk-proj-second-value', tags: { env: 'prod' } };

fetch('/openapi.json', { credentials: 'omit' })
  .then((response) => { if (!response.ok) throw new Error(`the server returned status ${response.status}`); return response.json(); })
  .then(draw)
  .catch((error) => {
    const note = document.getElementById('pending');
    note.className = 'note bad';
    note.textContent = `The page cannot show the calls: ${error.message}. Reload the page.`;
  });

function draw(document_) {
  const calls = Object.entries(document_.paths).flatMap(([route, methods]) => Object.entries(methods)
    .filter(([, call]) => call.operationId).map(([method, call]) => ({ ...call, route, method: method.toUpperCase() })));
  const place = (call) => (ORDER.indexOf(call.operationId) + ORDER.length + 1) % (ORDER.length + 1);
  calls.sort((a, b) => place(a) - place(b));
  const resolve = (item) => item?.$ref ? item.$ref.slice(2).split('/').reduce((at, step) => at?.[step], document_) : item;

  document.getElementById('pending').remove();
  document.getElementById('article').append(...calls.map((call) => section(call, resolve)), errors(document_));
  document.getElementById('contents').append(...calls.map((call) => h('a', { href: `#${call.operationId}` }, title(call))),
    h('a', { href: '#errors' }, 'Errors'));
  for (const block of document.querySelectorAll('.copied')) addCopy(block);
  // The browser searched for the fragment before the sections existed.
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

function section(call, resolve) {
  const body = resolve(call.requestBody?.content?.['application/json']?.schema);
  const response = resolve(call.responses?.['200']?.content?.['application/json']?.schema);
  const parameters = (call.parameters ?? []).map(resolve);
  return h('section', { id: call.operationId, 'aria-labelledby': `${call.operationId}-title` },
    h('h2', { id: `${call.operationId}-title` }, title(call)),
    h('p', { class: 'call' }, h('span', { class: `verb ${call.method.toLowerCase()}` }, call.method), h('span', { class: 'route' }, call.route)),
    ...prose(call.description || call.summary || ''),
    h('div', { class: 'copied' }, h('pre', { tabindex: '0' }, h('code', {}, curl(call, parameters, body)))),
    ...table('Path and query', parameters.map((item) => ({ ...item, schema: resolve(item.schema) }))),
    ...table('Request body', fields(body, resolve, new Set(parameters.filter((item) => item.in === 'path').map((item) => item.name)))),
    ...responseTables(response, resolve));
}

/** The fields of a response, and the fields of a message in it under a heading of their own. */
function responseTables(response, resolve) {
  const own = fields(response, resolve, new Set());
  const inner = own.map((field) => field.schema?.type === 'array' ? resolve(field.schema.items) : field.schema)
    .find((schema) => schema?.properties);
  // A response always has all fields, so none is marked as required.
  const plain = (items) => items.map((item) => ({ ...item, required: false }));
  return [...table('Response', plain(own)),
    ...(inner ? [h('details', {}, h('summary', {}, 'Fields of a secret'), ...table('', plain(fields(inner, resolve, new Set()))))] : [])];
}

function fields(schema, resolve, apart) {
  return Object.entries(schema?.properties ?? {}).filter(([name]) => !apart.has(name))
    .map(([name, item]) => ({ name, schema: resolve(item), description: item.description ?? resolve(item)?.description,
      required: schema.required?.includes(name) || /^Required\b/.test(item.description ?? '') }))
    .sort((a, b) => Number(b.required) - Number(a.required));
}

function table(heading, items) {
  if (items.length === 0) return [];
  const rows = items.map(({ name, schema, description, required }) => h('tr', {},
    h('td', {}, h('code', {}, name), required ? h('span', { class: 'must' }, 'required') : ''),
    h('td', {}, type(schema)),
    h('td', {}, ...inline((description ?? '').replace(/^(Optional|Required|Output only)\. /, '')))));
  return [heading ? h('h3', {}, heading) : '', h('div', { class: 'fields' }, h('table', {},
    h('thead', { class: 'unseen' }, h('tr', {}, ...['Field', 'Type', 'Meaning'].map((name) => h('th', { scope: 'col' }, name)))), h('tbody', {}, ...rows)))];
}

function type(schema) {
  const kind = [schema?.type ?? 'object'].flat().filter((name) => name !== 'null').join(' or ');
  if (kind === 'array') return 'list';
  if (kind === 'object') return schema?.additionalProperties ? 'map of strings' : 'object';
  return { 'date-time': 'time', int32: 'integer' }[schema?.format] ?? { string: 'text', boolean: 'true or false' }[kind] ?? kind;
}

/** The call as a command for bash, with the fields that have a sample. */
function curl(call, parameters, body) {
  const route = call.route.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(SAMPLES[name] ?? name));
  const lines = [`curl${call.method === 'GET' ? '' : ` -X ${call.method}`} "\${AGENTROUTER_BASE_URL}${route}"`,
    '-H "Authorization: Bearer ak-${AGENTROUTER_API_KEY}"'];
  const query = parameters.filter((item) => item.in === 'query' && item.name in SAMPLES).flatMap((item) =>
    typeof SAMPLES[item.name] === 'string' ? [`${item.name}=${SAMPLES[item.name]}`]
      : Object.entries(SAMPLES[item.name]).map(([key, content]) => `${item.name}[${key}]=${content}`));
  if (query.length) lines.push(`-G${query.map((pair) => ` --data-urlencode '${pair}'`).join('')}`);
  if (body) {
    const sent = Object.keys(SAMPLES).filter((name) => name in (body.properties ?? {}) && !call.route.includes(`{${name}}`));
    lines.push('-H "Content-Type: application/json"', `-d '${JSON.stringify(Object.fromEntries(sent.map((name) => [name, SAMPLES[name]])), null, 2).replaceAll('\n', '\n  ')}'`);
  }
  return lines.join(' \\\n  ');
}

function errors(document_) {
  const known = Object.entries(document_.components?.responses ?? {})
    .map(([name, response]) => ({ status: name.replace(/\D/g, ''), description: response.description })).filter((item) => item.status);
  const sample = { code: 5, message: 'There is no such secret, …', details: [{ '@type': 'type.googleapis.com/google.rpc.ErrorInfo', reason: 'SECRET_NOT_FOUND', domain: 'agentrouter.secret.v1' }] };
  return h('section', { id: 'errors', 'aria-labelledby': 'errors-title' }, h('h2', { id: 'errors-title' }, 'Errors'),
    h('p', {}, 'An error has a gRPC code, a message for people, and details for programs. Write programs against ', h('code', {}, 'reason'),
      ': it is stable, the message is not. If fields break rules, a ', h('code', {}, 'google.rpc.BadRequest'), ' names each field and its rule.'),
    h('pre', { tabindex: '0' }, h('code', {}, JSON.stringify(sample, null, 2))),
    h('div', { class: 'fields' }, h('table', {}, h('tbody', {}, ...known.map((item) =>
      h('tr', {}, h('td', {}, h('code', {}, item.status)), h('td', { class: 'free' }, ...inline(item.description ?? ''))))))));
}

// ---- Pieces

const title = (call) => call.operationId.replace(/([a-z])([A-Z])/g, (_, end, start) => `${end} ${start.toLowerCase()}`);

/** Paragraphs. Text between backquotes becomes code. */
const prose = (source) => source.split(/\n\s*\n/).filter(Boolean).map((paragraph) => h('p', {}, ...inline(paragraph)));

function inline(source) {
  return source.split(/`([^`]*)`/).map((piece, index) => index % 2 ? h('code', {}, piece) : piece);
}

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [key, content] of Object.entries(attributes)) element.setAttribute(key, content);
  element.append(...children);
  return element;
}

function addCopy(block) {
  if (!navigator.clipboard) return;
  const button = h('button', { type: 'button' }, 'Copy');
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(block.querySelector('code').textContent);
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  });
  block.append(button);
}
