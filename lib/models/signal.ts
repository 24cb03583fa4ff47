/**
 * What is used of an AbortSignal. Every AbortSignal fits; named by its form, it asks a program that uses these types for
 * neither the types of Node nor those of the DOM.
 */
export interface Signal {
  readonly aborted: boolean
  readonly reason: unknown
  throwIfAborted(): void
  addEventListener(type: 'abort', listener: () => void, options?: { once?: boolean }): void
  removeEventListener(type: 'abort', listener: () => void): void
}

/** By its form: a signal of another realm is no instance of this one's AbortSignal. */
export function isSignal(value: unknown): boolean {
  const signal = value as Partial<Signal> | null
  return (
    typeof signal?.aborted === 'boolean' &&
    typeof signal.addEventListener === 'function' &&
    typeof signal.throwIfAborted === 'function'
  )
}
