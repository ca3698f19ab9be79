/** The service in memory. */

import { fromJson, toJson, type DescMessage, type JsonValue, type Message } from '@bufbuild/protobuf'
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { AgentRouterError, STATUS, SecretService, Secrets, type Code, type Reason } from '../src/index.js'
import { FakeServer } from '../src/testing.js'

const reason = (call: Promise<unknown>) =>
  call.then(
    () => assert.fail('the call succeeded'),
    (error: unknown) => (error instanceof AgentRouterError ? error.reason : assert.fail(String(error))),
  )

test('code under test reads stored values', async () => {
  const server = new FakeServer()
  assert.equal(server.put('llm-keys', 'openai-api-key', 'sk-1'), 1)
  const secrets = new Secrets(server.client())
  assert.equal(await secrets.get('openai-api-key', 'llm-keys'), 'sk-1')
  assert.equal(server.put('llm-keys', 'openai-api-key', 'sk-2'), 2)
  secrets.forget('openai-api-key', 'llm-keys')
  assert.equal(await secrets.get('openai-api-key', 'llm-keys'), 'sk-2')
  assert.deepEqual(server.calls, ['getSecretValue', 'getSecretValue'])
})

test('fail makes the next calls fail', async () => {
  const server = new FakeServer()
  server.put('', 'n', 'v')
  const { secret } = server.client()
  const violations = [{ field: 'name', description: 'must be set' }]
  const failure = { code: 'INVALID_ARGUMENT', reason: 'INVALID_REQUEST', message: 'm', requestId: 'r-1', violations } as const
  server.fail({ code: 'UNAVAILABLE', reason: 'OVERLOADED', message: 'busy', retryAfterMs: 1 }, failure)
  await assert.rejects(secret.getSecret({ name: 'n' }), (error) => {
    assert.ok(error instanceof AgentRouterError)
    assert.equal(error.message, 'INVALID_ARGUMENT (INVALID_REQUEST): m [request r-1]')
    assert.deepEqual(error.violations, violations)
    return true
  })
  for (const code of ['UNAVAILBLE', 'unavailable', 'toString']) {
    assert.throws(() => server.fail({ code: code as 'UNAVAILABLE', message: 'm' }), /there is no code/)
  }
  await secret.getSecret({ name: 'n' })
  assert.equal(server.calls.length, 3)
  await assert.rejects(secret.getSecret({ name: 'n' }, { signal: AbortSignal.abort() }), { code: 'CANCELED' })
})

test('versions follow the rules of the service', async (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: 1_000_000 })
  const server = new FakeServer()
  const { secret } = server.client()
  const name = 'n'
  const read = async (version = 0) => {
    const { value, secret: metadata } = await secret.getSecretValue({ name, version })
    return [value, metadata?.status, metadata?.version]
  }
  assert.equal(await reason(secret.createSecret({ name })), 'INVALID_REQUEST')
  assert.equal(await reason(secret.createSecret({ name, value: 'a', expectedVersion: 1 })), 'VERSION_MISMATCH')
  await secret.createSecret({ name, value: 'a', description: 'd', expectedVersion: 0 })
  const second = await secret.createSecret({ name, value: 'b' })
  assert.deepEqual([second.secret?.version, second.secret?.description], [2, 'd'])
  assert.equal(await reason(read(1)), 'SECRET_NOT_FOUND')
  await secret.createSecret({ name, updateMask: { paths: ['description'] } })
  assert.deepEqual([await read(), (await secret.getSecret({ name })).secret?.description], [['b', STATUS.ACTIVE, 2], ''])

  assert.equal(await reason(secret.rotateSecret({ name, newValue: 'c', expectedVersion: 1 })), 'VERSION_MISMATCH')
  await secret.rotateSecret({ name, newValue: 'c', expectedVersion: 2, gracePeriod: { seconds: 60n } })
  assert.deepEqual(await read(), ['c', STATUS.ACTIVE, 3])
  assert.deepEqual(await read(2), ['b', STATUS.ROTATED_PENDING, 2])
  assert.equal((await secret.getSecret({ name })).secret?.expiresAt, undefined)
  t.mock.timers.tick(60_000)
  assert.equal(await reason(read(2)), 'SECRET_NOT_FOUND')
  assert.equal((await secret.validateSecret({ name })).valid, true)
  assert.equal((await secret.deleteSecret({ name })).success, true)
  assert.equal(await reason(secret.deleteSecret({ name })), 'SECRET_NOT_FOUND')
})

test('lists have filters and pages', async () => {
  const server = new FakeServer()
  const { secret } = server.client()
  for (const name of ['c', 'a', 'b']) await secret.createSecret({ name, value: 'v', tags: { n: name } })
  server.put('mcp', 'z', 'v1')
  server.put('mcp', 'z', 'v2')
  const list = async (request: Parameters<typeof secret.listSecrets>[0]) => {
    const rows = []
    for await (const { name, version } of secret.listAllSecrets(request)) rows.push(`${name}${version}`)
    return rows.join(' ')
  }
  assert.equal(await list({ pageSize: 2 }), 'a1 b1 c1 z2')
  assert.equal(await list({ realm: 'mcp', status: STATUS.ANY }), 'z1 z2')
  assert.equal(await list({ status: STATUS.RETIRED }), 'z1')
  assert.equal(await list({ tags: { n: 'b' } }), 'b1')
  assert.equal(await list({ namePrefix: 'c' }), 'c1')
  assert.equal(await reason(list({ pageToken: 'x' })), 'PAGE_TOKEN_INVALID')
  assert.equal(await reason(list({ pageSize: -1 })), 'INVALID_REQUEST')
})

interface FakeFailure {
  code: Code
  reason: Reason
  retry_after_ms?: number
  fields?: string[]
}

interface FakeStep {
  put?: { realm: string; name: string; value: string }
  fail?: FakeFailure
  call?: string
  request?: JsonValue
  expect?: JsonValue
  error?: FakeFailure
  requests?: number
}

const fakes = JSON.parse(readFileSync(new URL('../../cases/fakes.json', import.meta.url), 'utf8')) as {
  cases: { title: string; steps: FakeStep[] }[]
}

for (const { title, steps } of fakes.cases) {
  test(`as in every SDK: ${title}`, async () => {
    const server = new FakeServer()
    const { secret } = server.client()
    for (const [number, step] of steps.entries()) {
      const at = `step ${number + 1}`
      const { put, fail, call, requests } = step
      if (put) server.put(put.realm, put.name, put.value)
      if (fail) server.fail({ code: fail.code, reason: fail.reason || undefined, message: 'm', retryAfterMs: fail.retry_after_ms })
      if (call) {
        const method = SecretService.methods.find(({ name }) => name === call)
        assert.ok(method, `there is no call ${call}`)
        const send = secret[method.localName as 'getSecret'].bind(secret) as (request: Message) => Promise<Message>
        const made = send(fromJson(method.input as DescMessage, step.request ?? {})).then(
          (message) => ({ response: toJson(method.output as DescMessage, message, { useProtoFieldName: true, alwaysEmitImplicit: true }) }),
          (error: unknown) => ({ error }),
        )
        checkStep(step, await made, at)
      }
      if (requests !== undefined) assert.equal(server.calls.length, requests, at)
    }
  })
}

function checkStep(step: FakeStep, made: { response?: JsonValue; error?: unknown }, at: string): void {
  const { error } = made
  if (step.error === undefined) {
    assert.equal(error, undefined, at)
    return like(step.expect ?? {}, made.response, at)
  }
  assert.ok(error instanceof AgentRouterError, at)
  const { code, reason, retry_after_ms = 0, fields = [] } = step.error
  assert.deepEqual(
    [error.code, error.reason ?? '', error.retryAfterMs ?? 0, error.violations.map(({ field }) => field), error.requestId],
    [code, reason, retry_after_ms, fields, 'fake'],
    at,
  )
}

/** Compares with a pattern: objects by the keys of the pattern, null with a default value. */
function like(pattern: JsonValue | undefined, found: JsonValue | undefined, path: string): void {
  if (pattern === null) assert.ok(found === null || found === undefined || Object.keys(found).length === 0, path)
  else if (pattern === '$set') assert.ok(found, path)
  else if (Array.isArray(pattern)) {
    assert.ok(Array.isArray(found) && found.length === pattern.length, path)
    pattern.forEach((each, i) => like(each, found[i], `${path}[${i}]`))
  } else if (typeof pattern === 'object') {
    for (const [key, each] of Object.entries(pattern)) like(each, (found as Record<string, JsonValue>)[key], `${path}.${key}`)
  } else assert.equal(found, pattern, path)
}
