/** What went wrong, as a word that programs can test. */
export type ErrorCode =
  | 'ERR_SHAPE'
  | 'ERR_DTYPE'
  | 'ERR_DEVICE'
  | 'ERR_DISPOSED'
  | 'ERR_OPTION'
  | 'ERR_OUT_OF_MEMORY'
  | 'ERR_CUDA'
  | 'ERR_UNSUPPORTED'
  | 'ERR_CHECKPOINT'
  | 'ERR_INDEX'

/** The codes that a SeqmixError has; bad arguments are TypeErrors and RangeErrors with the other codes. */
export type SeqmixErrorCode = 'ERR_OUT_OF_MEMORY' | 'ERR_CUDA' | 'ERR_UNSUPPORTED' | 'ERR_CHECKPOINT' | 'ERR_INDEX'

/**
 * A failure that is not a bad argument: memory, the GPU, something that this version does not support, a damaged
 * checkpoint, or a bad index that a kernel met. `code` says which.
 */
export class SeqmixError extends Error {
  readonly code: SeqmixErrorCode

  constructor(code: SeqmixErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'SeqmixError'
    this.code = code
  }
}

function coded<E extends Error>(error: E, code: ErrorCode): E & { code: ErrorCode } {
  return Object.assign(error, { code })
}

/** A wrong kind of argument: `what: expected …, got …`. */
export function typeError(code: ErrorCode, what: string, expected: string, got: string): TypeError {
  return coded(new TypeError(`${what}: expected ${expected}, got ${got}`), code)
}

/** An argument of the right kind and a wrong size: `what: expected …, got …`. */
export function rangeError(code: ErrorCode, what: string, expected: string, got: string): RangeError {
  return coded(new RangeError(`${what}: expected ${expected}, got ${got}`), code)
}

/** A value, briefly, for the end of an error message. */
export function shown(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (typeof value === 'string') return value.length > 60 ? `'${value.slice(0, 57)}…'` : `'${value}'`
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  if (typeof value === 'bigint') return BigInt.asIntN(128, value) === value ? `${value}n` : 'a bigint of many digits'
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'symbol') return 'a symbol'
  if (Array.isArray(value)) return `an array of ${value.length}`
  try {
    const name = (value as { constructor?: { name?: unknown } }).constructor?.name
    return typeof name === 'string' && name !== '' && name !== 'Object' ? `a ${name.slice(0, 60)}` : 'an object'
  } catch {
    return 'an object' // whose constructor is a getter that throws
  }
}
