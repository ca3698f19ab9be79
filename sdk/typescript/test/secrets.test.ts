import { fromBinary } from '@bufbuild/protobuf'
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'node:test'
import { inspect } from 'node:util'
import { AgentRouterError, GetSecretValueRequestSchema, Secrets } from '../src/index.js'
import { busy, refusal, scripted, value } from './server.js'

const gone = refusal(404, 'not_found', 'SECRET_NOT_FOUND')
const rejects = (call: Promise<unknown>, code: string) =>
  assert.rejects(call, (error) => error instanceof AgentRouterError && error.code === code)

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
  const server = await scripted(t, value('v1'), value('v2'))
  const secrets = new Secrets(server.client(), { maxAgeMs: 2000 })
  assert.equal(await secrets.get('n'), 'v1')
  await sleep(1100)
  assert.equal(await secrets.get('n'), 'v1')
  await sleep(300)
  assert.equal(server.requests.length, 2)
  assert.equal(await secrets.get('n'), 'v2')
})

test('a value that is too old is never served while the server can be reached', async (t) => {
  const server = await scripted(t, value('v1'), value('v2'))
  const secrets = new Secrets(server.client().secret, { maxAgeMs: 50 })
  assert.equal(await secrets.get('n'), 'v1')
  await sleep(60)
  assert.equal(await secrets.get('n'), 'v2')
})

test('while the server cannot be reached the last good value is served, for a bounded time', async (t) => {
  const server = await scripted(t, value('v1'), busy)
  const secrets = new Secrets(server.client({ retries: 0 }), { maxAgeMs: 10, maxStaleMs: 500 })
  assert.equal(await secrets.get('n'), 'v1')
  await sleep(20)
  assert.equal(await secrets.get('n'), 'v1')
  assert.equal(await secrets.get('n'), 'v1')
  assert.equal(server.requests.length, 2, 'a failed try is followed by a pause')
  await sleep(600)
  await rejects(secrets.get('n'), 'UNAVAILABLE')
})

test('nobody waits for a server that is known to say nothing, and its return is noticed', async (t) => {
  const server = await scripted(t, value('v1'), 'silence')
  const secrets = new Secrets(server.client({ timeoutMs: 300 }), { maxAgeMs: 10 })
  await secrets.get('n')
  await sleep(20)
  assert.equal(await secrets.get('n'), 'v1', 'the first waits for the timeout')
  const waits = []
  for (let n = 0; n < 30; n++) {
    const start = performance.now()
    assert.equal(await secrets.get('n'), 'v1')
    waits.push(performance.now() - start)
    await sleep(50)
  }
  assert.ok(Math.max(...waits) < 100, String(waits))
  assert.ok(server.requests.length >= 3 && server.requests.length <= 4, 'tries go on, about one a second')
  server.answers(value('v2'))
  await sleep(1100)
  await secrets.get('n')
  await sleep(100)
  assert.equal(await secrets.get('n'), 'v2')
})

test('after a refusal the value is forgotten, even if the server cannot be reached then', async (t) => {
  for (const refused of [
    gone,
    refusal(403, 'permission_denied', 'SCOPE_MISSING'),
    refusal(401, 'unauthenticated', 'UNAUTHENTICATED'),
  ]) {
    const server = await scripted(t, value('v1'), refused, busy)
    const secrets = new Secrets(server.client({ retries: 0 }), { maxAgeMs: 10 })
    await secrets.get('n')
    await sleep(20)
    await assert.rejects(secrets.get('n'), AgentRouterError)
    await rejects(secrets.get('n'), 'UNAVAILABLE')
    assert.deepEqual(secrets.toJSON(), { entries: 0 })
  }
})

test('a refusal seen in the background counts as well', async (t) => {
  const server = await scripted(t, value('v1'), gone)
  const secrets = new Secrets(server.client(), { maxAgeMs: 1000 })
  await secrets.get('n')
  await sleep(600)
  assert.equal(await secrets.get('n'), 'v1')
  await sleep(200)
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
