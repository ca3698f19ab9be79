/** Parser of the scenarios of `sdk/cases`, their templates and their patterns. See the README there. */

import assert from 'node:assert/strict'
import { randomInt } from 'node:crypto'
import { readFileSync } from 'node:fs'

export type Json = string | number | boolean | null | Json[] | { [key: string]: Json }
export type Variables = Readonly<Record<string, string>>

export interface Step {
  title?: string
  call: string
  as?: string
  request?: { [key: string]: Json }
  repeat?: number
  all_pages?: boolean
  expect?: Json
  error?: { code: string; reason: string; fields?: string[]; before_request?: boolean; config?: boolean }
  capture?: Record<string, string>
  client?: { timeout_ms?: number; retries?: number }
  faults?: string[]
  attempts?: number
  least_ms?: number
}

const SCENARIO = ['title', 'sdk_only', 'steps']
const STEP = 'title call as request repeat all_pages expect error capture client faults attempts least_ms'.split(' ')
const ERROR = ['code', 'reason', 'fields', 'before_request', 'config']
const CLIENT = ['timeout_ms', 'retries']

export function readScenario(path: string): { title: string; steps: Step[] } {
  const scenario = JSON.parse(readFileSync(path, 'utf8')) as { title: string; steps: Step[] }
  known(scenario, SCENARIO)
  for (const step of scenario.steps) {
    known(step, STEP)
    known(step.error ?? {}, ERROR)
    known(step.client ?? {}, CLIENT)
    assert.ok(!(step.error && step.expect), 'a step has an expectation or an error')
  }
  assert.ok(scenario.steps.length > 0, `${path} has no steps`)
  return scenario
}

function known(object: object, keys: string[]): void {
  for (const key of Object.keys(object)) assert.ok(keys.includes(key), `the runner does not know '${key}'`)
}

/** The value of `${run}`. */
export function randomRun(): string {
  return Array.from({ length: 8 }, () => randomInt(36).toString(36)).join('')
}

/** A request with its templates filled in. */
export function filled(json: Json, variables: Variables): Json {
  if (typeof json === 'string') return substituted(json, variables)
  if (Array.isArray(json)) return json.map((item) => filled(item, variables))
  if (typeof json !== 'object' || json === null) return json
  const [key] = Object.keys(json)
  if (key?.startsWith('$')) {
    assert.equal(Object.keys(json).length, 1, 'a text is made in one way')
    return made(key, json[key]!, variables)
  }
  return Object.fromEntries(Object.entries(json).map(([name, value]) => [name, filled(value, variables)]))
}

/** Fails unless the response matches the pattern. */
export function matches(pattern: Json, response: Json | undefined, variables: Variables, path = 'response'): void {
  if (typeof pattern === 'string') {
    assert.equal(response, substituted(pattern, variables), path)
  } else if (Array.isArray(pattern)) {
    assert.ok(Array.isArray(response), `${path} is no array`)
    assert.equal(response.length, pattern.length, `${path}: length`)
    pattern.forEach((item, at) => matches(item, response[at], variables, `${path}[${at}]`))
  } else if (typeof pattern === 'object' && pattern !== null) {
    for (const [key, value] of Object.entries(pattern)) {
      if (key.startsWith('$')) matchesRule(key, value, response, variables, path)
      else matches(value, member(response, key), variables, `${path}.${key}`)
    }
    if (Object.keys(pattern).length === 0) assert.ok(typeof response === 'object', `${path} is no object`)
  } else {
    assert.equal(response, pattern, path)
  }
}

/** The value at a dotted path. */
export function at(response: Json, path: string): string {
  const found = path.split('.').reduce<Json | undefined>((inner, key) => member(inner, key), response)
  assert.equal(typeof found, 'string', `nothing to capture at ${path}`)
  return found as string
}

function matchesRule(rule: string, value: Json, response: Json | undefined, variables: Variables, path: string): void {
  switch (rule) {
    case '$absent':
      return assert.equal(response ?? null, null, path)
    case '$exact':
      return assert.deepEqual(response, filled(value, variables), path)
    case '$matches':
      assert.equal(typeof response, 'string', path)
      return assert.match(response as string, new RegExp(`^(?:${value as string})$`, 's'), path)
    case '$length':
      assert.ok(typeof response === 'string' || Array.isArray(response), `${path} has no length`)
      return assert.equal(typeof response === 'string' ? Buffer.byteLength(response) : response.length, value, `${path}: length`)
    case '$each':
      assert.ok(Array.isArray(response), `${path} is no array`)
      return response.forEach((item, n) => matches(value, item, variables, `${path}[${n}]`))
    default:
      return assert.ok(response === made(rule, value, variables), `${path} is another text`)
  }
}

function made(rule: string, value: Json, variables: Variables): string {
  assert.ok(Array.isArray(value), `${rule} takes an array`)
  const texts = value.map((item) => filled(item, variables))
  if (rule === '$repeat' && texts.length === 2) return String(texts[0]).repeat(Number(texts[1]))
  assert.equal(rule, '$concat', `the runner does not know '${rule}'`)
  return texts.join('')
}

function substituted(text: string, variables: Variables): string {
  return text.replace(/\$\{(\w+)\}/g, (_, name: string) => {
    assert.ok(name in variables, `nothing has set '${name}'`)
    return variables[name]!
  })
}

function member(json: Json | undefined, key: string): Json | undefined {
  return typeof json === 'object' && json !== null && !Array.isArray(json) ? json[key] : undefined
}
