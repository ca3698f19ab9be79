import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { inspect } from 'node:util'
import { Client, ConfigError, GetSecretResponseSchema, Secrets, type ClientOptions } from '../src/index.js'
import { BARE_KEY, KEY, ok, scripted } from './server.js'

delete process.env['AGENTROUTER_BASE_URL']
delete process.env['AGENTROUTER_API_KEY']

function refused(options: ClientOptions, setting: ConfigError['setting']): ConfigError {
  try {
    new Client(options)
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error))
    assert.equal(error.setting, setting)
    return error
  }
  assert.fail(`taken: ${JSON.stringify(options)}`)
}

test('a client needs no network to be made, and shows no key', () => {
  const client = new Client({ baseUrl: 'http://127.0.0.1:1/', apiKey: KEY })
  const secrets = new Secrets(client)
  for (const shown of [client, client.secret, secrets]) {
    const text = inspect(shown, { depth: 10, showHidden: true }) + JSON.stringify(shown) + String(shown)
    assert.doesNotMatch(text, /Canary/i)
  }
  assert.match(inspect(client), /127\.0\.0\.1/)
})

test('a malformed key is refused and never repeated', () => {
  for (const apiKey of [
    BARE_KEY.slice(1),
    `${BARE_KEY}0`,
    `ak-ak-${BARE_KEY}`,
    `AK-${BARE_KEY}`,
    `Bearer ${KEY}`,
    `${KEY}\n`,
    ` ${KEY}`,
    BARE_KEY.replace('_', '-'),
    BARE_KEY.replace('C', 'é'),
    '${AGENTROUTER_API_KEY}',
    7 as unknown as string,
  ]) {
    const error = refused({ baseUrl: 'https://h', apiKey }, 'apiKey')
    assert.doesNotMatch(inspect(error) + error.message, /Canary/i)
  }
  assert.match(refused({ baseUrl: 'https://h' }, 'apiKey').message, /AGENTROUTER_API_KEY/)
  assert.match(refused({ baseUrl: 'https://h', apiKey: '' }, 'apiKey').message, /no API key/)
})

test('a base URL is http with a host and nothing else', () => {
  for (const baseUrl of ['http://127.0.0.1:8080', 'https://secrets.example.com/', 'https://h/prefix', 'http://[::1]:8080']) {
    new Client({ baseUrl, apiKey: KEY })
  }
  for (const baseUrl of [
    '127.0.0.1:8080',
    'localhost',
    'ftp://h',
    'http://',
    'http:/h',
    'http://user:canary@h',
    'http://canary@h',
    'http://h?x=1',
    'http://h?',
    'http://h#x',
    'http://a b',
    'http://h\n',
    'http://h:99999',
    '/v1',
  ]) {
    assert.doesNotMatch(inspect(refused({ baseUrl, apiKey: KEY }, 'baseUrl')), /canary/)
  }
  assert.match(refused({ apiKey: KEY }, 'baseUrl').message, /AGENTROUTER_BASE_URL/)
})

test('numbers out of range are refused', () => {
  const good = { baseUrl: 'https://h', apiKey: KEY }
  for (const timeoutMs of [0, -1, NaN, Infinity, 2 ** 31]) refused({ ...good, timeoutMs }, 'timeoutMs')
  for (const retries of [-1, 0.5, NaN]) refused({ ...good, retries }, 'retries')
  refused({ ...good, userAgent: 'a\nb' }, 'userAgent')
  const client = new Client(good)
  for (const options of [{ maxAgeMs: -1 }, { maxStaleMs: NaN }, { maxEntries: 0 }]) {
    assert.throws(() => new Secrets(client, options), ConfigError)
  }
})

test('an option of another name is refused, and never its value repeated', async () => {
  const good = { baseUrl: 'https://h', apiKey: KEY }
  const error = refused({ ...good, baseURL: 'canary' } as ClientOptions, 'baseURL')
  assert.match(error.message, /there is no option baseURL.*baseUrl/)
  assert.doesNotMatch(error.message, /canary/)
  const client = new Client({ ...good, timeout: undefined } as ClientOptions)
  assert.throws(() => new Secrets(client, { maxAge: 1 } as object), { setting: 'maxAge' })
  await assert.rejects(client.secret.getSecret({}, { timeout: 1 } as object), { setting: 'timeout' })
})

test('the environment fills what is not passed, and what is passed wins', async (t) => {
  const server = await scripted(t, ok(GetSecretResponseSchema, {}))
  process.env['AGENTROUTER_BASE_URL'] = `${server.url}/env/`
  process.env['AGENTROUTER_API_KEY'] = BARE_KEY
  t.after(() => {
    delete process.env['AGENTROUTER_BASE_URL']
    delete process.env['AGENTROUTER_API_KEY']
  })
  await new Client().secret.getSecret({})
  await new Client({ baseUrl: undefined, apiKey: undefined }).secret.getSecret({})
  await new Client({ baseUrl: `${server.url}/own` }).secret.getSecret({})
  assert.deepEqual(
    server.requests.map(({ path }) => path.split('/')[1]),
    ['env', 'env', 'own'],
  )
  assert.equal(server.requests[0]?.headers.authorization, `Bearer ${KEY}`)
  // An empty string is an explicit setting: the environment does not replace it.
  refused({ apiKey: '' }, 'apiKey')
})

test('the server receives the name and version of the SDK, and the program', async (t) => {
  const server = await scripted(t, ok(GetSecretResponseSchema, {}))
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }
  await server.client().secret.getSecret({})
  await server.client({ userAgent: 'gateway/1.4' }).secret.getSecret({})
  assert.deepEqual(
    server.requests.map(({ headers }) => headers['user-agent']),
    [`agentrouter-sdk-typescript/${version}`, `gateway/1.4 agentrouter-sdk-typescript/${version}`],
  )
})
