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
