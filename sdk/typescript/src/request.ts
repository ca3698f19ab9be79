/**
 * Turns the request of a caller into a message.
 *
 * It rejects what a message cannot hold: a number out of range, half of a surrogate pair, which encoders replace silently by
 * another character, and a field of another name, which encoders drop. The server has all other rules.
 */

import { create, toBinary, type DescMessage, type MessageInitShape, type MessageShape } from '@bufbuild/protobuf'
import { AgentRouterError, type FieldViolation } from './errors.js'

/** The message of a request. Throws the {@link AgentRouterError} of INVALID_REQUEST. */
export function message<D extends DescMessage>(schema: D, init: MessageInitShape<D>): MessageShape<D> {
  const violations: FieldViolation[] = []
  for (const { localName, name } of schema.fields) {
    const value = (init as Record<string, unknown> | undefined)?.[localName]
    if (!wellFormed(value)) {
      violations.push({ field: name, description: 'must be well-formed Unicode' })
    } else if (!encodes(schema, { [localName]: value } as MessageInitShape<D>)) {
      violations.push({ field: name, description: 'must be of its type and range' })
    }
  }
  const names = new Set(schema.fields.map(({ localName }) => localName))
  for (const [name, value] of Object.entries(init ?? {})) {
    if (value === undefined || name.startsWith('$') || names.has(name)) continue
    violations.push({ field: name, description: `must not be set: ${schema.name} has no such field` })
  }
  if (violations.length > 0) {
    throw new AgentRouterError({
      code: 'INVALID_ARGUMENT',
      reason: 'INVALID_REQUEST',
      message: 'The request has fields that cannot be encoded. No request was sent.',
      violations,
    })
  }
  return create(schema, init)
}

/** Whether no text in it has half of a surrogate pair. */
function wellFormed(value: unknown): boolean {
  if (typeof value === 'string') return !/\p{Cs}/u.test(value)
  if (typeof value !== 'object' || value === null) return true
  return Object.entries(value).every(([key, inner]) => wellFormed(key) && wellFormed(inner))
}

function encodes<D extends DescMessage>(schema: D, init: MessageInitShape<D>): boolean {
  try {
    toBinary(schema, create(schema, init))
    return true
  } catch {
    // The error of the encoder may contain the field.
    return false
  }
}
