import { causalConv1d, type Tensor } from '../../lib/index.js'
import type { ConvInputs } from '../reference/causal_conv1d.js'
import type { FloatType } from './floats.js'
import { place, type Layout } from './layout.js'

export type ConvTypes = { readonly [K in keyof ConvInputs]?: FloatType }

/**
 * The op on these values, laid out as `where` says (plain where it says nothing) and held as `types` says (float32 where it
 * says nothing), final states and all.
 */
export function runConv(
  q: ConvInputs,
  where: Partial<Record<keyof ConvInputs, Layout>> = {},
  types: ConvTypes = {},
): { out: Tensor; finalStates: Tensor } {
  const at = (key: 'x' | 'weight' | 'bias' | 'initialStates'): Tensor | undefined =>
    q[key] ? place(q[key], where[key] ?? 'plain', types[key]) : undefined
  return causalConv1d(at('x')!, at('weight')!, {
    bias: at('bias'),
    activation: q.activation ?? null,
    initialStates: at('initialStates'),
    seqIdx: q.seqIdx ? place(q.seqIdx, where.seqIdx ?? 'plain', 'int32') : undefined,
    returnFinalStates: true,
  })
}
