import { fromBinary } from '@bufbuild/protobuf'
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type TestContext } from 'node:test'
import { inspect } from 'node:util'
import { AgentRouterError, GetSecretValueRequestSchema, Secrets } from '../src/index.js'
import { busy, refusal, scripted, value } from './server.js'

const gone = refusal(404, 'not_found', 'SECRET_NOT_FOUND')
const rejects = (call: Promise<unknown>, code: string) =>
  assert.rejects(call, (error) => error instanceof AgentRouterError && error.code === code)

/** The cache's time, which only the test moves on. A call's timeout goes by the real one. */
function clock(t: TestContext): { pass(ms: number): void } {
  let now = 1_000_000
  t.mock.method(performance, 'now', () => now)
  return { pass: (ms) => (now += ms) }
}

/** What the cache has without waiting: a timer, however short, is later than that. */
const atOnce = (secrets: Secrets) => Promise.race([secrets.get('n'), sleep(0, 'nothing')])

/** Waits for what goes on in the background. */
async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let n = 0; n < 200; n++) {
    if (await holds()) return
    await sleep(10)
  }
  assert.fail('it does not come to that')
}

test('a value is read once for all who ask, and again by whom it is asked for elsewhere', async (t) => {
  const server = await scripted(t, value('v1'))
  const secrets = new Secrets(server.client())
  assert.deepEqual(await Promise.all([secrets.get('n'), secrets.get('n'), secrets.get('n')]), ['v1', 'v1', 'v1'])
  assert.equal(server.requests.length, 1)
  await secrets.get('n', 'mcp')
  await secrets.get('n', 'mcp', 'alice')
  await secrets.get('n', 'mcp', 'alice')
  const sent = server.requests.map(({ body }) => fromBinary(GetSecretValueRequestSchema, body))
  assert.deepEqual(
    sent.map(({ name, realm, userId }) => [name, realm, userId]),
    [
      ['n', '', ''],
      ['n', 'mcp', ''],
      ['n', 'mcp', 'alice'],
    ],
  )
})

test('a value is refreshed in the background before it is too old', async (t) => {
  const time = clock(t)
  const server = await scripted(t, value('v1'), value('v2'))
  const secrets = new Secrets(server.client(), { maxAgeMs: 2000 })
  assert.equal(await secrets.get('n'), 'v1')
  time.pass(999)
  assert.equal(await atOnce(secrets), 'v1')
  assert.equal(server.requests.length, 1)
  time.pass(1)
  assert.equal(await atOnce(secrets), 'v1')
  await until(async () => (await atOnce(secrets)) === 'v2')
  assert.equal(server.requests.length, 2)
})

test('a value that is too old is never served while the server can be reached', async (t) => {
  const time = clock(t)
  const server = await scripted(t, value('v1'), value('v2'))
  const secrets = new Secrets(server.client().secret, { maxAgeMs: 50 })
  assert.equal(await secrets.get('n'), 'v1')
  time.pass(50)
  assert.equal(await secrets.get('n'), 'v2')
})

test('while the server cannot be reached the last good value is served, for a bounded time', async (t) => {
  const time = clock(t)
  const server = await scripted(t, value('v1'), busy)
  const secrets = new Secrets(server.client({ retries: 0 }), { maxAgeMs: 10, maxStaleMs: 500 })
  assert.equal(await secrets.get('n'), 'v1')
  time.pass(20)
  assert.equal(await secrets.get('n'), 'v1')
  time.pass(479)
  assert.equal(await secrets.get('n'), 'v1')
  assert.equal(server.requests.length, 2, 'a failed try is followed by a pause')
  time.pass(1)
  await rejects(secrets.get('n'), 'UNAVAILABLE')
})

test('nobody waits for a server that is known to say nothing, and its return is noticed', async (t) => {
  const time = clock(t)
  const server = await scripted(t, value('v1'), 'silence')
  const secrets = new Secrets(server.client({ timeoutMs: 1000 }), { maxAgeMs: 10 })
  await secrets.get('n')
  time.pass(20)
  assert.equal(await secrets.get('n'), 'v1', 'the first waits for the timeout')
  for (let n = 0; n < 10; n++) {
    time.pass(99)
    assert.equal(await atOnce(secrets), 'v1')
  }
  assert.equal(server.requests.length, 2, 'a failed try is followed by a pause')
  time.pass(10)
  assert.equal(await atOnce(secrets), 'v1', 'while it is tried again')
  await until(() => server.requests.length === 3)
  assert.equal(await atOnce(secrets), 'v1', 'and that hangs')
  server.answers(value('v2'))
  await until(async () => {
    time.pass(1000)
    await atOnce(secrets)
    await sleep(100)
    return (await atOnce(secrets)) === 'v2'
  })
})

test('after a refusal the value is forgotten, even if the server cannot be reached then', async (t) => {
  const time = clock(t)
  for (const refused of [
    gone,
    refusal(403, 'permission_denied', 'SCOPE_MISSING'),
    refusal(401, 'unauthenticated', 'UNAUTHENTICATED'),
  ]) {
    const server = await scripted(t, value('v1'), refused, busy)
    const secrets = new Secrets(server.client({ retries: 0 }), { maxAgeMs: 10 })
    await secrets.get('n')
    time.pass(20)
    await assert.rejects(secrets.get('n'), AgentRouterError)
    await rejects(secrets.get('n'), 'UNAVAILABLE')
    assert.deepEqual(secrets.toJSON(), { entries: 0 })
  }
})

test('what is forgotten is read anew, and nothing else is', async (t) => {
  const server = await scripted(t, value('v1'), value('v2'), value('v3'))
  const secrets = new Secrets(server.client())
  assert.deepEqual([await secrets.get('a', 'r'), await secrets.get('b', 'r', 'u')], ['v1', 'v2'])
  secrets.forget('b', 'r')
  assert.equal(await secrets.get('b', 'r', 'u'), 'v2')
  secrets.forget('b', 'r', 'u')
  assert.deepEqual([await secrets.get('a', 'r'), await secrets.get('b', 'r', 'u')], ['v1', 'v3'])
})

test('a refusal seen in the background counts as well', async (t) => {
  const time = clock(t)
  const server = await scripted(t, value('v1'), gone)
  const secrets = new Secrets(server.client(), { maxAgeMs: 1000 })
  await secrets.get('n')
  time.pass(600)
  assert.equal(await secrets.get('n'), 'v1')
  await until(() => JSON.stringify(secrets) === '{"entries":0}')
  await rejects(secrets.get('n'), 'NOT_FOUND')
})

test('what was never read is an error as it comes', async (t) => {
  const server = await scripted(t, busy)
  await rejects(new Secrets(server.client({ retries: 0 })).get('n'), 'UNAVAILABLE')
})

test('the cache is bounded, forgets on demand, and shows nothing of what it has', async (t) => {
  const server = await scripted(t, value('canary'))
  const secrets = new Secrets(server.client(), { maxEntries: 2 })
  for (const name of ['a', 'b', 'a', 'c']) await secrets.get(name)
  assert.deepEqual(secrets.toJSON(), { entries: 2 })
  assert.equal(server.requests.length, 3)
  await secrets.get('a')
  assert.equal(server.requests.length, 3, 'the one asked for longest ago went')
  assert.doesNotMatch(inspect(secrets, { depth: 10, showHidden: true }) + JSON.stringify(secrets), /canary/)

  const late = secrets.get('d')
  secrets.clear()
  assert.equal(await late, 'canary')
  assert.deepEqual(secrets.toJSON(), { entries: 0 })
})
