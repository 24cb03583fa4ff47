// One token's attention over a cache of L keys, which it is added to: contiguous, in pages, and in int8. The floor is the
// bytes of the cache.
import { type DType, flashAttentionWithKvCache, tensor } from '../../lib/index.js'
import { type Bench, measure } from '../bench.js'
import { bytesOf, dtypesOn, Inputs } from '../inputs.js'

interface Size {
  B: number
  L: number
  Hq: number
  Hk: number
  D: number
}

const grouped = { Hq: 32, Hk: 8, D: 128 }
const cpu: readonly Size[] = [
  { B: 1, L: 32768, Hq: 12, Hk: 12, D: 64 },
  { B: 1, L: 32768, ...grouped },
  { B: 1, L: 4096, ...grouped },
]
const cuda: readonly Size[] = [
  { B: 1, L: 4096, ...grouped },
  { B: 1, L: 32768, ...grouped },
  { B: 1, L: 131072, ...grouped },
  { B: 16, L: 4096, ...grouped },
  { B: 16, L: 32768, ...grouped },
  { B: 64, L: 4096, ...grouped },
]

export async function decode(bench: Bench): Promise<void> {
  const onCuda = bench.device.type === 'cuda'
  const sizes = onCuda ? cuda : cpu
  const dtypes = onCuda ? (['bfloat16'] as const) : dtypesOn(bench.device)
  for (const dtype of dtypes)
    for (const size of bench.quick ? sizes.slice(0, 1) : sizes) {
      await one(bench, size, 0, dtype, dtype)
      await one(bench, size, 64, dtype, dtype)
      if (size.L === 32768) await one(bench, size, 0, dtype, 'int8')
    }
}

/** With pages of `page` keys, in no order; 0: one slot a row. */
async function one(bench: Bench, size: Size, page: number, dtype: DType, cache: DType): Promise<void> {
  const { B, L, Hq, Hk, D } = size
  const letters = { ...size, page, dtype, ...(cache === dtype ? {} : { cache }) }
  await measure(bench, 'decode', letters, () => {
    const from = new Inputs(bench.device)
    const blocks = page ? Math.ceil(L / page) : 0
    const shape = page ? [B * blocks, page, Hk, D] : [B, L, Hk, D]
    const ints = (values: Int32Array, shape_: number[]) =>
      from.keep(tensor(values, { shape: shape_, device: bench.device }))
    const held = () => {
      if (cache !== 'int8') return from.uniform(shape, -1, 1, cache)
      const wide = from.uniform(shape, -127, 127)
      return from.keep(wide.to('int8'))
    }
    const [kCache, vCache] = [held(), held()]
    const scale = () => (cache === 'int8' ? from.uniform(shape.slice(0, 3), 0.001, 0.01) : null)
    const order = Int32Array.from({ length: B * blocks }, (_, i) => (i * 7919) % (B * blocks))
    const options = {
      k: from.uniform([B, 1, Hk, D], -1, 1, dtype),
      v: from.uniform([B, 1, Hk, D], -1, 1, dtype),
      cacheSeqlens: ints(new Int32Array(B).fill(L - 1), [B]),
      blockTable: page ? ints(order, [B, blocks]) : null,
      kScale: scale(),
      vScale: scale(),
    }
    const q = from.uniform([B, 1, Hq, D], -1, 1, dtype)
    const element = cache === 'int8' ? 1 + 4 / D : bytesOf(dtype)
    return {
      queue: () => flashAttentionWithKvCache(q, kCache, vCache, options).dispose(),
      work: { bytes: 2 * B * L * Hk * D * element, operations: 4 * B * Hq * L * D },
      inputs: from.made,
    }
  })
}
