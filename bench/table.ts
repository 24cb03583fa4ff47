// Rows for people: what the case is, its time, its rates, its share of the floor.
import type { Row } from './bench.js'

/** Keys that are not part of what a case is. */
const measuredKeys = new Set([
  'op',
  'pass',
  'device',
  'ms',
  'ms_min',
  'us',
  'us_all',
  'spread',
  'samples',
  'repeats',
  'gb_s',
  'tflops',
  'gelem_s',
  'gupdates_s',
  'tok_s',
  'memory_gb_s',
  'floor_share',
  'kernel',
  'about',
])

const rateNames = { gb_s: 'GB/s', tflops: 'TFLOP/s', gelem_s: 'Gelem/s', tok_s: 'tok/s' } as const

export class Table {
  #started = false

  constructor(private readonly out: NodeJS.WritableStream) {}

  /** The case in a few words: `scan B=1 D=1536 L=2048 N=16 layout=bdl`. */
  words(row: Record<string, unknown>): string {
    const letters = Object.entries(row).filter(
      ([key, value]) => !measuredKeys.has(key) && !(key === 'dtype' && value === 'float32'),
    )
    return [row.op, ...letters.map(([key, value]) => (key === 'name' ? value : `${key}=${String(value)}`))].join(' ')
  }

  machine(record: Record<string, unknown>): void {
    const words = Object.entries(record).filter(([key, value]) => key !== 'case' && value !== undefined)
    this.out.write(words.map(([key, value]) => `${key}: ${String(value)}`).join(', ') + '\n')
  }

  row(row: Row): void {
    if (!this.#started) this.#line('case', 'time', '±', 'rate', 'floor', 'kernel')
    this.#started = true
    const rates = Object.entries(rateNames).filter(([key]) => typeof row[key] === 'number')
    this.#line(
      this.words(row),
      row.ms === undefined ? '' : duration(row.ms),
      typeof row.spread === 'number' ? percent(row.spread) : '',
      typeof row.us_all === 'number'
        ? `${row.us_all} µs with collection`
        : rates.map(([key, unit]) => `${rate(row[key] as number)} ${unit}`).join(', '),
      typeof row.floor_share === 'number' ? percent(row.floor_share) : '',
      String(row.kernel ?? row.about ?? ''),
    )
  }

  #line(...cells: [string, string, string, string, string, string]): void {
    const [name, time, spread, rates, floor, kernel] = cells
    const line = [name.padEnd(46), time.padStart(10), spread.padStart(6), rates.padEnd(32), floor.padStart(6), kernel]
    this.out.write(line.join('  ').trimEnd() + '\n')
  }
}

function duration(ms: number): string {
  return ms < 1 ? `${(ms * 1e3).toPrecision(3)} µs` : `${ms.toPrecision(4)} ms`
}

function rate(value: number): string {
  return value >= 1e4 ? value.toFixed(0) : value.toPrecision(3)
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`
}
