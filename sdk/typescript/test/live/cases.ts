/** Runs the language-neutral cases of `sdk/cases` against a real server. Its README describes the environment. */

import { create, fromJson, toJson, type DescMessage, type Message, type MessageShape } from '@bufbuild/protobuf'
import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { inspect } from 'node:util'
import { AgentRouterError, Client, ConfigError, ListSecretsResponseSchema, SecretService } from '../../src/index.js'
import { proxy } from './proxy.js'
import { at, filled, matches, randomRun, readScenario, type Json, type Step, type Variables } from './scenario.js'

/** Concurrent calls of a repeated step. */
const AT_ONCE = 16

const target = needed('AGENTROUTER_BASE_URL')
const folder = needed('AGENTROUTER_CASES')
const given = ['admin', 'reader', 'writer', 'internal', 'limited', 'other', 'revoked']
const keys: Record<string, string> = Object.fromEntries(
  given.map((role) => [role, needed(`AGENTROUTER_KEY_${role.toUpperCase()}`)]),
)
Object.assign(keys, { unknown: `${'0'.repeat(16)}_${'0'.repeat(49)}`, malformed: keys['admin']!.slice(0, -1), none: '' })

/** Other tests run these; they need no server. */
const tables = ['cache.json', 'errors.json', 'fakes.json', 'proxy.json', 'retry.json']
const files = readdirSync(folder).filter((name) => name.endsWith('.json') && !tables.includes(name))
test('there are cases', () => assert.ok(files.length > 0))
for (const file of files.sort()) {
  const scenario = readScenario(join(folder, file))
  test(`${file}: ${scenario.title}`, async () => {
    let variables: Variables = { run: randomRun() }
    for (const [number, step] of scenario.steps.entries()) {
      try {
        variables = { ...variables, ...(await runStep(step, variables)) }
      } catch (error) {
        throw new Error(`step ${number + 1}, ${step.title ?? step.call}`, { cause: error })
      }
    }
  })
}

/** Runs a step. Returns the captured values. */
async function runStep(step: Step, variables: Variables): Promise<Variables> {
  const relay = step.faults && (await proxy(target, step.faults))
  const start = performance.now()
  try {
    const client = () => makeClient(step, relay?.url ?? target)
    if (step.repeat === undefined) return await runCall(step, client, variables)
    const numbers = Array.from({ length: step.repeat }, (_, i) => String(i).padStart(4, '0'))
    const shared = client()
    const worker = async () => {
      for (let i = numbers.shift(); i !== undefined; i = numbers.shift()) {
        await runCall(step, () => shared, { ...variables, i })
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, worker))
    return {}
  } finally {
    relay?.close()
    if (step.attempts !== undefined) assert.equal(relay?.attempts(), step.attempts, 'attempts')
    if (step.least_ms !== undefined) assert.ok(performance.now() - start >= step.least_ms, 'it was over too soon')
  }
}

function makeClient(step: Step, baseUrl: string): Client {
  const apiKey = keys[step.as ?? 'admin']
  assert.notEqual(apiKey, undefined, `the runner does not know the role '${step.as}'`)
  return new Client({ baseUrl, apiKey, timeoutMs: step.client?.timeout_ms, retries: step.client?.retries })
}

async function runCall(step: Step, client: () => Client, variables: Variables): Promise<Variables> {
  const request = filled(step.request ?? {}, variables) as { [key: string]: Json }
  let response: Json
  try {
    response = await call(step, client(), request)
  } catch (error) {
    assert.ok(step.error, inspect(error))
    checkError(step, error, request)
    return {}
  }
  assert.equal(step.error, undefined, 'the call succeeded')
  matches(step.expect ?? {}, response, variables)
  return Object.fromEntries(Object.entries(step.capture ?? {}).map(([name, path]) => [name, at(response, path)]))
}

/** Makes the step's call. Returns the response as proto JSON. */
async function call(step: Step, { secret }: Client, json: Json): Promise<Json> {
  const name = (step.call[0]?.toLowerCase() + step.call.slice(1)) as keyof typeof SecretService.method
  const method = SecretService.method[name]
  assert.ok(method, `the runner does not know the call '${step.call}'`)
  const request = fromJson(method.input as DescMessage, json)
  if (step.all_pages) {
    assert.equal(step.call, 'ListSecrets')
    const secrets = []
    for await (const item of secret.listAllSecrets(request as MessageShape<typeof SecretService.method.listSecrets.input>)) {
      secrets.push(item)
    }
    return written(ListSecretsResponseSchema, create(ListSecretsResponseSchema, { secrets }))
  }
  const send = secret[name].bind(secret) as (request: Message) => Promise<Message>
  return written(method.output, await send(request))
}

function written(schema: DescMessage, message: Message): Json {
  return toJson(schema, message, { useProtoFieldName: true, alwaysEmitImplicit: true }) as Json
}

function checkError(step: Step, error: unknown, request: { [key: string]: Json }): void {
  const shown = [inspect(error, { depth: null, showHidden: true }), String(error), JSON.stringify(error)].join('\n')
  const key = keys[step.as ?? 'admin']!.split('_')[1]
  for (const canary of [key, request['value'], request['new_value']]) {
    if (typeof canary === 'string' && canary.length >= 8) assert.ok(!shown.includes(canary), 'the error tells a secret')
  }
  const { code, reason, fields = [], before_request = false } = step.error!
  if (before_request) {
    assert.ok(error instanceof ConfigError, shown)
    return
  }
  assert.ok(error instanceof AgentRouterError, shown)
  assert.deepEqual([error.code, error.reason ?? ''], [code, reason], shown)
  assert.deepEqual(error.violations.map(({ field }) => field).sort(), [...fields].sort(), shown)
}

function needed(name: string): string {
  const value = process.env[name]
  if (!value) throw new Error(`${name} is not set; sdk/cases/with-server sets it`)
  return value
}
