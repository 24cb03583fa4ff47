import { rangeError, shown, typeError } from './errors.js'

/** How many single-letter edits lie between two words. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1))
    }
    row = next
  }
  return row[b.length]!
}

/** The known word nearest to one that is not, if it is near at all. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const plain = (s: string): string => s.toLowerCase().replace(/[-_]/g, '')
  let best: string | undefined
  let least = Math.max(2, word.length / 2)
  let leastEdits = 0
  for (const k of known) {
    const [a, b] = [plain(word), plain(k)]
    // A shortened or lengthened word is near, however many letters that is: epsilon for eps.
    const same = Math.min(a.length, b.length) > 2 && (a.startsWith(b) || b.startsWith(a))
    const edits = distance(a, b)
    const d = same ? Math.min(1, edits) : edits
    if (d < least || (d === least && edits < leastEdits)) {
      best = k
      least = d
      leastEdits = edits
    }
  }
  return best
}

/** Throws ERR_OPTION for an option that does not exist, naming the one that was meant. */
export function checkOptions(options: object, known: readonly string[]): void {
  // What has dims is a tensor, given where its place in the list of arguments is an option's.
  if (typeof options !== 'object' || options === null || Array.isArray(options) || 'dims' in options)
    throw typeError('ERR_OPTION', 'options', `an object of ${known.join(', ')}`, shown(options))
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue
    const meant = name === '' || name.length > 64 ? undefined : nearest(name, known)
    throw typeError('ERR_OPTION', 'options', meant ?? `one of ${known.join(', ')}`, meant ? name : shown(name))
  }
}

/** An option that is true or false; false when it is not given. */
export function flag(value: unknown, name: string): boolean {
  if (value === undefined) return false
  if (typeof value !== 'boolean') throw typeError('ERR_OPTION', name, 'true or false', shown(value))
  return value
}

/** An option that is a number. */
export function number(value: unknown, name: string, otherwise: number): number {
  if (value === undefined) return otherwise
  if (typeof value !== 'number') throw typeError('ERR_OPTION', name, 'a number', shown(value))
  return value
}

/** An option that is a whole number from 0 on. */
export function whole(value: unknown, name: string, otherwise: number): number {
  const n = number(value, name, otherwise)
  if (!Number.isSafeInteger(n) || n < 0) throw rangeError('ERR_OPTION', name, 'a whole number from 0 on', shown(n))
  return n
}

/** What an op may do to its result at the end. */
export type Activation = 'silu' | null

/** The addon's number for an activation. */
export function activation(value: unknown): number {
  if (value === undefined || value === null) return 0
  if (value === 'silu') return 1
  throw typeError('ERR_OPTION', 'activation', "null or 'silu'", shown(value))
}
