/**
 * Text forms of messages: what `console.log`, `JSON.stringify` and template strings show.
 *
 * Fields with the option `debug_redact`, which are the values of secrets, are shown as `[REDACTED]`. Times are shown as text,
 * because JSON has no bigint. The methods are not enumerable: messages compare, copy and encode as before.
 *
 * Deliberately absent: redaction in encodings. `toJson` and `toBinary` of `@bufbuild/protobuf` keep the values.
 */

import {
  create as createMessage,
  type DescMessage,
  type Message,
  type MessageInitShape,
  type MessageShape,
} from '@bufbuild/protobuf'

/** What is shown in the place of a value. */
const REDACTED = '[REDACTED]'

/**
 * Makes a message whose text form omits values: `create(CreateSecretRequestSchema, { name: 'n', value })`. Calls take plain
 * objects too, whose text form is that of any object.
 */
export function create<D extends DescMessage>(schema: D, init?: MessageInitShape<D>): MessageShape<D> {
  return readable(schema, createMessage(schema, init))
}

/** Adds the text forms to a message and to the messages in it. */
export function readable<D extends DescMessage>(schema: D, message: MessageShape<D>): MessageShape<D> {
  Object.defineProperties(message, forms(schema))
  for (const { localName, kind, value } of inner(schema)) {
    const content = (message as unknown as Record<string, unknown>)[localName]
    if (content === undefined) continue
    const messages = kind === 'message' ? [content] : Object.values(content as object)
    for (const each of messages) readable(value, each as Message)
  }
  return message
}

interface Inner {
  readonly localName: string
  readonly kind: 'message' | 'list' | 'map'
  readonly value: DescMessage
}

const innerOf = new WeakMap<DescMessage, readonly Inner[]>()

/** The fields of a message that have messages. */
function inner(schema: DescMessage): readonly Inner[] {
  const known = innerOf.get(schema)
  if (known !== undefined) return known
  const found: Inner[] = []
  for (const { localName, fieldKind: kind, message } of schema.fields) {
    if (message !== undefined && (kind === 'message' || kind === 'list' || kind === 'map')) {
      found.push({ localName, kind, value: message })
    }
  }
  innerOf.set(schema, found)
  return found
}

const formsOf = new WeakMap<DescMessage, PropertyDescriptorMap>()

function forms(schema: DescMessage): PropertyDescriptorMap {
  const known = formsOf.get(schema)
  if (known !== undefined) return known
  const redacted = new Set(schema.fields.filter((f) => f.proto.options?.debugRedact).map((f) => f.localName))
  const shown = (message: object) =>
    Object.entries(message).map(([name, value]) => [name, redacted.has(name) && value !== '' ? REDACTED : value] as const)
  function toJSON(this: object): unknown {
    if (schema.typeName === 'google.protobuf.Timestamp') return time(this as { seconds: bigint; nanos: number })
    const fields = shown(this).filter(([name]) => name !== '$typeName')
    return Object.fromEntries(fields.map(([name, value]) => [name, typeof value === 'bigint' ? String(value) : value]))
  }
  const method = (value: unknown) => ({ value, enumerable: false, configurable: true, writable: true })
  const made: PropertyDescriptorMap = {
    toJSON: method(toJSON),
    toString: method(function (this: object) {
      return JSON.stringify(this)
    }),
  }
  if (redacted.size > 0) {
    // What Node's console shows.
    made[Symbol.for('nodejs.util.inspect.custom') as unknown as string] = method(function (this: object) {
      return Object.fromEntries(shown(this))
    })
  }
  formsOf.set(schema, made)
  return made
}

/** RFC 3339, in milliseconds. Seconds alone if the time is out of the range of dates. */
function time({ seconds, nanos }: { seconds: bigint; nanos: number }): string {
  const date = new Date(Number(seconds) * 1000 + Math.floor(nanos / 1e6))
  return Number.isNaN(date.getTime()) ? `${seconds}s` : date.toISOString()
}
