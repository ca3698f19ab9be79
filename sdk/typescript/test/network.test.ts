/** How requests reach the server: certificates, proxies, sockets, and broken connections. */

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test, type TestContext } from 'node:test'
import { AgentRouterError, Client, ConfigError, type ClientOptions } from '../src/index.js'
import { proxyFor } from '../src/proxy.js'
import { fileWith, onSocket, plain, proxy, relay, secure } from './relay.js'
import { KEY } from './server.js'

const VARIABLES = ['HTTPS_PROXY', 'HTTP_PROXY', 'ALL_PROXY', 'NO_PROXY', 'AGENTROUTER_CA_FILE', 'AGENTROUTER_ALLOW_HTTP', 'REQUEST_METHOD']

/** Sets variables of the environment until the end of the test, and unsets the others of these tests. */
function environment(t: TestContext, variables: Record<string, string> = {}): void {
  for (const name of [...VARIABLES, ...VARIABLES.map((name) => name.toLowerCase())]) {
    const before = process.env[name]
    if (variables[name] === undefined) delete process.env[name]
    else process.env[name] = variables[name]
    t.after(() => {
      if (before === undefined) delete process.env[name]
      else process.env[name] = before
    })
  }
}

const client = (options: ClientOptions) => new Client({ apiKey: KEY, retries: 0, ...options })
const read = (made: Client, timeoutMs = 10_000) => made.secret.getSecret({ name: 'n' }, { timeoutMs })

async function failure(call: Promise<unknown>): Promise<AgentRouterError> {
  try {
    await call
  } catch (error) {
    assert.ok(error instanceof AgentRouterError, String(error))
    return error
  }
  assert.fail('the call succeeded')
}

function refused(options: ClientOptions): ConfigError {
  try {
    client(options)
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error))
    return error
  }
  assert.fail(`taken: ${JSON.stringify(options)}`)
}

test('a file of certificates is trusted instead of the system’s', async (t) => {
  environment(t)
  const { port, caFile } = await secure(t)
  const baseUrl = `https://127.0.0.1:${port}`
  assert.match((await failure(read(client({ baseUrl })))).message, /certificate/)
  await read(client({ baseUrl, caFile }))
  environment(t, { AGENTROUTER_CA_FILE: caFile })
  await read(client({ baseUrl }))
  environment(t, { AGENTROUTER_CA_FILE: '' })
  await failure(read(client({ baseUrl })))
  for (const content of ['', 'no certificate', '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n']) {
    assert.equal(refused({ baseUrl, caFile: fileWith(t, content) }).setting, 'caFile')
  }
  assert.match(refused({ baseUrl, caFile: '/no/such.pem' }).message, /no such file/)
})

for (const scheme of ['http', 'https']) {
  test(`calls share a connection, and a broken one fails no more than one call (${scheme})`, async (t) => {
    environment(t)
    const server = scheme === 'https' ? await secure(t) : { port: await plain(t), caFile: undefined }
    const path = await relay(t, server.port)
    const made = client({ baseUrl: `${scheme}://127.0.0.1:${path.port}`, caFile: server.caFile })
    for (let n = 0; n < 10; n++) await read(made)
    // The global `fetch` may open a second one before the first is free again.
    const opened = path.opened
    assert.ok(opened <= (scheme === 'https' ? 1 : 2), `${opened} connections`)
    path.silence()
    let failed = 0
    for (let n = 0; n < 8; n++) failed += await read(made, 2_000).then(() => 0, () => 1)
    assert.ok(failed >= 1 && failed <= opened, `${failed} calls fail`)
  })
}

test('with several broken connections, one call that times out closes the idle ones', async (t) => {
  environment(t)
  const { port, caFile } = await secure(t)
  const path = await relay(t, port)
  const made = client({ baseUrl: `https://127.0.0.1:${path.port}`, caFile })
  await Promise.all([read(made), read(made), read(made), read(made)])
  assert.equal(path.opened, 4)
  path.silence()
  await failure(read(made, 1_100))
  await Promise.all([read(made), read(made), read(made), read(made)])
  assert.equal(path.opened, 8)
})

test('a Unix socket is a base URL', async (t) => {
  environment(t, { HTTP_PROXY: 'http://127.0.0.1:1' })
  const { path, requests } = await onSocket(t)
  const made = client({ baseUrl: `unix:${path}` })
  await read(made)
  await read(made)
  assert.deepEqual([requests[0]?.headers.authorization, requests[0]?.headers.host], [`Bearer ${KEY}`, 'localhost'])
  assert.equal(requests[0]?.socket, requests[1]?.socket, 'calls share a connection')
  assert.equal(JSON.stringify(made), `{"secret":{"baseUrl":"unix:${path}","timeoutMs":10000,"retries":0}}`)
  const absent = await failure(read(client({ baseUrl: `unix:${path}.absent` })))
  assert.equal(absent.code, 'UNAVAILABLE')
  assert.ok(absent.message.includes(`${path}.absent`), absent.message)
})

test('the proxies of the environment are used', async (t) => {
  const { port, caFile } = await secure(t)
  const through = await proxy(t, port)
  const url = through.url.replace('http://', 'http://us%40er:pass@')
  environment(t, { HTTPS_PROXY: url, http_proxy: url })
  const made = client({ baseUrl: 'https://secrets.example.com', caFile })
  await read(made)
  await read(made)
  const credentials = `Basic ${Buffer.from('us@er:pass').toString('base64')}`
  assert.deepEqual(through.seen.splice(0), [`CONNECT secrets.example.com:443 ${credentials}`], 'calls share a tunnel')

  await read(client({ baseUrl: 'http://secrets.example.com/prefix', allowHttp: true }))
  const procedure = 'agentrouter.secret.v1.SecretService/GetSecret'
  assert.deepEqual(through.seen.splice(0), [`POST http://secrets.example.com/prefix/${procedure} ${credentials}`])

  const no = await failure(read(client({ baseUrl: 'https://refused.example.com', caFile })))
  assert.equal(no.code, 'UNAVAILABLE')
  assert.match(no.message, /the proxy refused to open a tunnel: 403/)
  assert.doesNotMatch(no.message, /pass/)
  through.seen.splice(0)

  // The server has no certificate for this name: the tunnel does not change what is checked.
  assert.match((await failure(read(client({ baseUrl: 'https://other.example.com', caFile })))).message, /certificate/)
  through.seen.splice(0)

  await read(client({ baseUrl: `https://127.0.0.1:${port}`, caFile }))
  environment(t, { HTTPS_PROXY: url, NO_PROXY: '127.0.0.1,.example.org' })
  assert.deepEqual(through.seen, [], 'this host has no proxy')
})

test('the variables of proxies mean what they mean to other programs', () => {
  const path = new URL('../../cases/proxy.json', import.meta.url)
  const { cases: table } = JSON.parse(readFileSync(path, 'utf8')) as {
    cases: { title: string; variables: Record<string, string>; url: string; proxy?: string }[]
  }
  const through = (url: string, variables: Record<string, string>) =>
    proxyFor(new URL(url), (name) => variables[name] || undefined)
  for (const { title, variables, url, proxy } of table) {
    const used = through(url, variables)
    assert.equal(used && `${used.hostname}:${used.port || 80}`, proxy, title)
  }
  const used = (variables: Record<string, string>) => through('http://h', variables)?.hostname
  assert.equal(used({ HTTP_PROXY: 'upper', http_proxy: 'lower' }), 'lower')
  assert.equal(used({ HTTP_PROXY: 'p:3128', REQUEST_METHOD: 'GET' }), undefined)
  assert.equal(used({ http_proxy: 'p:3128', REQUEST_METHOD: 'GET' }), 'p')
  for (const bad of ['socks5://user:canary@p:1080', 'http://', 'http://user:canary@p:99999']) {
    assert.throws(
      () => through('https://h', { HTTPS_PROXY: bad }),
      (error) => error instanceof ConfigError && error.setting === 'proxy' && !error.message.includes('canary'),
    )
  }
  for (const [host, list, excluded] of [
    ['h.example.com', 'example.com', true],
    ['example.com', 'example.com', true],
    ['example.com', '.example.com', false],
    ['h.example.com', '.example.com', true],
    ['h.example.com', '*.example.com', true],
    ['hexample.com', 'example.com', false],
    ['H.EXAMPLE.com', ' a , Example.COM ', true],
    ['h', '*', true],
    ['h:444', 'h:443', false],
    ['h:444', 'h:444', true],
    ['h', 'h:443', true],
    ['h', '', false],
    ['h', ',,', false],
    ['10.1.2.3', '10.0.0.0/8', true],
    ['11.1.2.3', '10.0.0.0/8', false],
    ['10.1.2.3', '10.1.2.3', true],
    ['10.1.2.3:444', '10.1.2.3:443', false],
    ['10.1.2.3', '2.3', false],
    ['10.1.2.3', '10.0.0.0/33', false],
    ['h', '10.0.0.0/8', false],
    ['[2001:db8::1]', '2001:db8::/32', true],
    ['[2001:db8::1]', '2001:0db8:0::1', true],
    ['[2001:db8::1]', '[2001:db8::1]:443', true],
    ['[2001:db9::1]', '2001:db8::/32', false],
  ] as const) {
    const used = through(`https://${host}`, { HTTPS_PROXY: 'p:3128', NO_PROXY: list })
    assert.equal(used === undefined, excluded, `${host}, NO_PROXY=${list}`)
  }
})

test('a key is not sent in clear text over a network unless that is allowed', (t) => {
  environment(t)
  const local = ['http://127.0.0.1', 'http://127.9.9.9:1', 'http://[::1]:8080', 'http://localhost', 'HTTP://LOCALHOST', 'http://a.localhost']
  for (const baseUrl of [...local, 'https://secrets.example.com', 'https://10.0.0.1']) client({ baseUrl })
  const remote = ['http://secrets.example.com', 'http://10.0.0.1:8080', 'http://0.0.0.0', 'http://localhost.example.com']
  remote.push('http://mylocalhost', 'HTTP://secrets', 'http://[2001:db8::1]', 'http://127.0.0.1.example.com')
  for (const baseUrl of remote) {
    for (const fetch of [undefined, globalThis.fetch]) {
      const error = refused({ baseUrl, fetch })
      assert.equal(error.setting, 'baseUrl')
      assert.match(error.message, /allowHttp or AGENTROUTER_ALLOW_HTTP=1/)
    }
    client({ baseUrl, allowHttp: true })
  }
  const baseUrl = remote[0]
  for (const [value, allowed] of [['1', true], ['true', true], ['0', false], ['false', false], ['', false]] as const) {
    environment(t, { AGENTROUTER_ALLOW_HTTP: value })
    if (allowed) client({ baseUrl })
    else refused({ baseUrl })
  }
  environment(t, { AGENTROUTER_ALLOW_HTTP: '1' })
  refused({ baseUrl, allowHttp: false })
  environment(t, { AGENTROUTER_ALLOW_HTTP: 'perhaps' })
  assert.equal(refused({ baseUrl: 'https://h' }).setting, 'allowHttp')
})

test('a setting without effect is refused', (t) => {
  environment(t)
  const { fetch } = globalThis
  assert.equal(refused({ baseUrl: 'https://h', caFile: 'ca.pem', fetch }).setting, 'caFile')
  assert.equal(refused({ baseUrl: 'http://127.0.0.1', caFile: 'ca.pem' }).setting, 'caFile')
  assert.equal(refused({ baseUrl: 'unix:/s', caFile: 'ca.pem' }).setting, 'caFile')
  assert.equal(refused({ baseUrl: 'unix:/s', fetch }).setting, 'baseUrl')
  assert.equal(refused({ baseUrl: 'unix:' }).setting, 'baseUrl')
  // A variable may be meant for another program.
  environment(t, { AGENTROUTER_CA_FILE: '/no/such.pem' })
  for (const baseUrl of ['http://127.0.0.1', 'unix:/s']) client({ baseUrl })
  client({ baseUrl: 'https://h', fetch })
  assert.equal(refused({ baseUrl: 'https://h' }).setting, 'caFile')
})
