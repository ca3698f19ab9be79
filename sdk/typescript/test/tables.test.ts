/** The tables of `sdk/cases` that need no server: errors, retries and the cache, on a fake clock. */

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test, type TestContext } from 'node:test'
import { setImmediate as tick } from 'node:timers/promises'
import { RetryInfoSchema } from '../src/gen/google/rpc/error_details_pb.js'
import { clock } from '../src/clock.js'
import { AgentRouterError, Client, CODE, REASON, Secrets, type Code, type SecretClient } from '../src/index.js'
import { BASE_MS, CAP_MS, FACTOR } from '../src/retry.js'
import { MAX_AGE_MS, MAX_ENTRIES, MAX_STALE_MS, REFRESH_DELAY_MS } from '../src/secrets.js'
import { RETRIES, TIMEOUT_MS } from '../src/settings.js'
import { detail, KEY, refusal } from './server.js'

interface Outcome {
  code: Code
  reason: string
}

function table<T>(name: string, keys: string): T {
  const content = JSON.parse(readFileSync(new URL(`../../cases/${name}`, import.meta.url), 'utf8')) as T & object
  known(content, `title ${keys}`)
  return content
}

function known(object: object, keys: string): void {
  for (const key of Object.keys(object)) assert.ok(keys.split(' ').includes(key), `unknown key '${key}'`)
}

async function outcome(call: Promise<unknown>): Promise<Outcome | undefined> {
  try {
    await call
    return undefined
  } catch (error) {
    assert.ok(error instanceof AgentRouterError, String(error))
    return { code: error.code, reason: error.reason ?? '' }
  }
}

/** A fake clock. */
function fakeClock(t: TestContext) {
  const fake = { now: 1_000_000 }
  t.mock.method(clock, 'now', () => fake.now)
  return fake
}

test('the constants are the codes and reasons of the table', () => {
  const { codes, reasons } = table<{ codes: string[]; reasons: Record<string, string> }>('errors.json', 'codes reasons')
  assert.deepEqual(Object.values(CODE), codes)
  assert.deepEqual(Object.keys(CODE), codes)
  assert.deepEqual(Object.values(REASON), Object.keys(reasons))
  assert.deepEqual(Object.keys(REASON), Object.keys(reasons))
  const page = readFileSync(new URL('../../../docs/errors.md', import.meta.url), 'utf8')
  const documented = [...page.matchAll(/^\| `([A-Z_]+)` \| [A-Z_]+ \(/gm)].map(([, reason]) => reason)
  assert.deepEqual(Object.keys(REASON), documented)
})

interface Attempt {
  drop?: boolean
  status?: number
  code: string
  reason?: string
  retry_after?: string
  retry_info_ms?: number
  takes_ms?: number
}

interface RetryCase {
  title: string
  call: string
  expected_version?: number
  timeout_ms?: number
  retries?: number
  attempts: Attempt[]
  random: number[]
  pauses_ms: number[]
  error?: Outcome
}

const retry = table<{ defaults: object; cases: RetryCase[] }>('retry.json', 'defaults cases')

test('the defaults of a client are those of the table', () => {
  assert.deepEqual(retry.defaults, { timeout_ms: TIMEOUT_MS, retries: RETRIES, base_ms: BASE_MS, factor: FACTOR, cap_ms: CAP_MS })
  const client = new Client({ baseUrl: 'http://127.0.0.1:1', apiKey: KEY })
  assert.deepEqual(client.secret.toJSON(), { baseUrl: 'http://127.0.0.1:1', timeoutMs: TIMEOUT_MS, retries: RETRIES })
})

/** The HTTP response of an attempt. */
function response(attempt: Attempt): Response {
  known(attempt, 'drop status code reason retry_after retry_info_ms takes_ms')
  if (attempt.drop) throw new TypeError('fetch failed')
  if (attempt.status === undefined) return new Response('', { headers: { 'content-type': 'application/proto' } })
  const ms = attempt.retry_info_ms
  const delay = { seconds: BigInt(Math.floor((ms ?? 0) / 1000)), nanos: ((ms ?? 0) % 1000) * 1e6 }
  const details = ms === undefined ? [] : [detail('google.rpc.RetryInfo', RetryInfoSchema, { retryDelay: delay })]
  const headers = attempt.retry_after === undefined ? {} : { 'retry-after': attempt.retry_after }
  const reply = refusal(attempt.status, attempt.code, attempt.reason ?? '', headers, details)
  assert.ok(reply !== 'silence')
  return new Response(reply.body as string, {
    status: reply.status,
    headers: { ...reply.headers, 'content-type': reply.type },
  })
}

for (const each of retry.cases) {
  test(`retries: ${each.title}`, async (t) => {
    known(each, 'title call expected_version timeout_ms retries attempts random pauses_ms error')
    const time = fakeClock(t)
    const pauses: number[] = []
    t.mock.method(clock, 'random', () => each.random[pauses.length])
    t.mock.method(clock, 'sleep', async (ms: number) => {
      pauses.push(ms)
      time.now += ms
    })
    let sent = 0
    const client = new Client({
      baseUrl: 'http://127.0.0.1:1',
      apiKey: KEY,
      timeoutMs: each.timeout_ms,
      retries: each.retries,
      fetch: async () => {
        const attempt = each.attempts[sent++]
        assert.ok(attempt, 'more requests than attempts')
        time.now += attempt.takes_ms ?? 0
        return response(attempt)
      },
    })
    const method = (each.call[0]!.toLowerCase() + each.call.slice(1)) as 'createSecret'
    const { expected_version: expectedVersion } = each
    const call = client.secret[method](expectedVersion === undefined ? {} : { expectedVersion })
    assert.deepEqual(await outcome(call), each.error)
    assert.equal(sent, each.attempts.length, 'requests')
    assert.deepEqual(pauses, each.pauses_ms)
  })
}

type Said = 'silent' | { value?: string; code: Code; reason: string; retry_after_ms?: number; takes_ms?: number }

interface CacheStep {
  pass_ms?: number
  server?: Said
  get?: string
  value?: string
  error?: Outcome
  forget?: string
  requests?: number
}

interface CacheCase {
  title: string
  cache?: { max_age_ms?: number; max_stale_ms?: number; max_entries?: number }
  steps: CacheStep[]
}

const cache = table<{ defaults: object; cases: CacheCase[] }>('cache.json', 'defaults cases')

test('the defaults of the cache are those of the table', () => {
  assert.deepEqual(cache.defaults, {
    max_age_ms: MAX_AGE_MS,
    max_stale_ms: MAX_STALE_MS,
    max_entries: MAX_ENTRIES,
    delay_ms: REFRESH_DELAY_MS,
  })
})

for (const each of cache.cases) {
  test(`cache: ${each.title}`, async (t) => {
    known(each, 'title cache steps')
    known(each.cache ?? {}, 'max_age_ms max_stale_ms max_entries')
    const time = fakeClock(t)
    let said: Said = 'silent'
    let requests = 0
    const getSecretValue = async () => {
      requests++
      while (said === 'silent') await tick()
      known(said, 'value code reason retry_after_ms takes_ms')
      time.now += said.takes_ms ?? 0
      const { value, code, reason } = said
      if (value !== undefined) return { value }
      throw new AgentRouterError({ code, reason: reason || undefined, message: 'No.', retryAfterMs: said.retry_after_ms })
    }
    const secrets = new Secrets({ getSecretValue } as unknown as SecretClient, {
      maxAgeMs: each.cache?.max_age_ms,
      maxStaleMs: each.cache?.max_stale_ms,
      maxEntries: each.cache?.max_entries,
    })
    for (const [index, step] of each.steps.entries()) {
      known(step, 'pass_ms server get value error forget requests')
      time.now += step.pass_ms ?? 0
      if (step.server !== undefined) said = step.server
      if (step.forget !== undefined) secrets.forget(step.forget)
      if (step.get !== undefined) {
        const call = secrets.get(step.get)
        assert.deepEqual(await outcome(call), step.error, `step ${index + 1}`)
        if (step.error === undefined) assert.equal(await call, step.value, `step ${index + 1}`)
      }
      // A request that the server no longer holds ends within these.
      await tick()
      await tick()
      if (step.requests !== undefined) assert.equal(requests, step.requests, `step ${index + 1}`)
    }
  })
}
