import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { NDArray } from '../reference/array.js'

export interface GoldenCase {
  name: string
  options: Record<string, unknown>
  inputs: Record<string, NDArray>
  outputs: Record<string, NDArray>
}

interface Header {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

const folder = fileURLToPath(new URL('../fixtures/ops/', import.meta.url))

/**
 * The cases of fixtures/ops/<op>.safetensors. Keys are `<case>/in.<name>` and `<case>/out.<name>`; a case's options are
 * JSON under its name in the metadata. Gradients are left out. A reader of its own, so that what the library's reader
 * gets wrong does not cancel out.
 */
export function loadGolden(op: string): GoldenCase[] {
  const file = readFileSync(folder + op + '.safetensors')
  const headerSize = Number(file.readBigUInt64LE(0))
  const { __metadata__: metadata, ...entries } = JSON.parse(file.toString('utf8', 8, 8 + headerSize)) as {
    __metadata__: Record<string, string>
  } & Record<string, Header>
  const cases = new Map<string, GoldenCase>()
  for (const [name, json] of Object.entries(metadata).sort())
    cases.set(name, { name, options: JSON.parse(json) as Record<string, unknown>, inputs: {}, outputs: {} })
  for (const [key, header] of Object.entries(entries as Record<string, Header>)) {
    const [, name, kind, field] = /^(\w+)\/(?:(in|out|grad)\.|d_)(\w+)$/.exec(key) ?? []
    if (!name || !field) throw new Error(`unexpected key ${key}`)
    const bytes = file.subarray(8 + headerSize + header.data_offsets[0], 8 + headerSize + header.data_offsets[1])
    const found = cases.get(name)!
    if (kind === 'in') found.inputs[field] = toArray(bytes, header)
    if (kind === 'out') found.outputs[field] = toArray(bytes, header)
  }
  return [...cases.values()]
}

function toArray(bytes: Buffer, { dtype, shape }: Header): NDArray {
  const out = new NDArray(shape)
  for (let i = 0; i < out.size; i++) out.data[i] = dtype === 'I32' ? bytes.readInt32LE(4 * i) : bytes.readFloatLE(4 * i)
  return out
}
