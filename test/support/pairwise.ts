import { Random } from './random.js'

type Choice<F> = { [K in keyof F]: F[K] extends readonly (infer V)[] ? V : never }

/**
 * Few combinations of the factors' values in which every pair of values of two factors occurs: greedy, the best of some
 * random candidates at a time, always the same for the same factors.
 */
export function pairwise<const F extends Record<string, readonly unknown[]>>(
  factors: F,
  seed = 'pairwise',
): Choice<F>[] {
  const random = new Random(seed)
  const names = Object.keys(factors)
  const sizes = names.map((k) => factors[k]!.length)
  const open = new Set<string>()
  for (let a = 0; a < names.length; a++)
    for (let b = a + 1; b < names.length; b++)
      for (let i = 0; i < sizes[a]!; i++) for (let j = 0; j < sizes[b]!; j++) open.add(`${a}.${i}.${b}.${j}`)

  const pairsOf = (row: number[]): string[] => {
    const pairs: string[] = []
    for (let a = 0; a < row.length; a++)
      for (let b = a + 1; b < row.length; b++) pairs.push(`${a}.${row[a]!}.${b}.${row[b]!}`)
    return pairs.filter((p) => open.has(p))
  }

  const rows: number[][] = []
  while (open.size > 0) {
    const [a, i, b, j] = [...open][random.int(0, open.size - 1)]!.split('.').map(Number) as [
      number,
      number,
      number,
      number,
    ]
    let best: number[] = []
    let most = -1
    for (let candidate = 0; candidate < 20; candidate++) {
      const row = sizes.map((n) => random.int(0, n - 1))
      row[a] = i
      row[b] = j
      const covered = pairsOf(row).length
      if (covered > most) [best, most] = [row, covered]
    }
    for (const p of pairsOf(best)) open.delete(p)
    rows.push(best)
  }
  return rows.map((row) => Object.fromEntries(names.map((k, a) => [k, factors[k]![row[a]!]])) as Choice<F>)
}

/** A name for a case: only what is worth reading. */
export function describeCase(choice: Record<string, unknown>): string {
  return Object.entries(choice)
    .filter(([, v]) => v !== false)
    .map(([k, v]) => (v === true ? k : `${k}=${String(v)}`))
    .join(' ')
}
