// What the machine reaches with nothing in the way. Other suites' floors stand on them, so they are part of every run that
// has floors, whatever its filter.
import { type Bench, round } from '../bench.js'

const units = {
  read: { key: 'gb_s', scale: 1e9, about: 'reading memory' },
  copy: { key: 'gb_s', scale: 1e9, about: 'copying memory, bytes counted both ways' },
  fma: { key: 'tflops', scale: 1e12, about: 'float32 multiply-adds in registers, counted as two' },
  bf16: { key: 'tflops', scale: 1e12, about: 'bfloat16 products by mma.sync in registers' },
  ex2: { key: 'gelem_s', scale: 1e9, about: 'exponentials (ex2.approx) in registers' },
} as const

export async function ceilings(bench: Bench): Promise<void> {
  const measured = bench.ceilings()
  for (const [name, { key, scale, about }] of Object.entries(units)) {
    const rate = measured[name as keyof typeof units]
    if (rate === undefined) continue
    bench.report({ op: 'ceilings', device: bench.device.name, name, [key]: round(rate / scale), about })
  }
}
