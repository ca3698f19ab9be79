import { fromBinary } from '@bufbuild/protobuf'
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type TestContext } from 'node:test'
import { inspect } from 'node:util'
import { AgentRouterError, GetSecretValueRequestSchema, Secrets } from '../src/index.js'
import { clock as timer } from '../src/clock.js'
import { refusal, scripted, value } from './server.js'

const notFound = refusal(404, 'not_found', 'SECRET_NOT_FOUND')
const rejects = (call: Promise<unknown>, code: string) =>
  assert.rejects(call, (error) => error instanceof AgentRouterError && error.code === code)

/** A fake clock. */
function clock(t: TestContext): { pass(ms: number): void } {
  let now = 1_000_000
  t.mock.method(timer, 'now', () => now)
  return { pass: (ms) => (now += ms) }
}

/** Waits for a background refresh. */
async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let n = 0; n < 200; n++) {
    if (await holds()) return
    await sleep(10)
  }
  assert.fail('it does not come to that')
}

test('a value is read once for all concurrent callers, and once more for each other secret', async (t) => {
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

test('a forgotten value is read again, and no other value is', async (t) => {
  const server = await scripted(t, value('v1'), value('v2'), value('v3'))
  const secrets = new Secrets(server.client())
  assert.deepEqual([await secrets.get('a', 'r'), await secrets.get('b', 'r', 'u')], ['v1', 'v2'])
  secrets.forget('b', 'r')
  assert.equal(await secrets.get('b', 'r', 'u'), 'v2')
  secrets.forget('b', 'r', 'u')
  assert.deepEqual([await secrets.get('a', 'r'), await secrets.get('b', 'r', 'u')], ['v1', 'v3'])
})

test('a refusal of a background refresh removes the value', async (t) => {
  const time = clock(t)
  const server = await scripted(t, value('v1'), notFound)
  const secrets = new Secrets(server.client(), { maxAgeMs: 1000 })
  await secrets.get('n')
  time.pass(600)
  assert.equal(await secrets.get('n'), 'v1')
  await until(() => JSON.stringify(secrets) === '{"entries":0}')
  await rejects(secrets.get('n'), 'NOT_FOUND')
})

test('the cache is bounded, drops entries on request, and shows no value', async (t) => {
  const server = await scripted(t, value('canary'))
  const secrets = new Secrets(server.client(), { maxEntries: 2 })
  for (const name of ['a', 'b', 'a', 'c']) await secrets.get(name)
  assert.deepEqual(secrets.toJSON(), { entries: 2 })
  assert.equal(server.requests.length, 3)
  await secrets.get('a')
  assert.equal(server.requests.length, 3, 'the least recently used entry was dropped')
  assert.doesNotMatch(inspect(secrets, { depth: 10, showHidden: true }) + JSON.stringify(secrets), /canary/)

  const late = secrets.get('d')
  secrets.clear()
  assert.equal(await late, 'canary')
  assert.deepEqual(secrets.toJSON(), { entries: 0 })
})
