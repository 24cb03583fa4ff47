// Frequencies against their papers' formulas, in the form that Hugging Face's configs have them.

import { expect, test } from 'vitest'

import { Rope, type RopeConfig } from '../../lib/layers/index.js'
import { dut } from '../support/device.js'

const dims = 16
const theta = 10_000
const plain = Array.from({ length: dims / 2 }, (_, c) => theta ** (-c / (dims / 2)))

/** cos and sin of a position. */
async function row(config: RopeConfig, position: number): Promise<{ cos: number[]; sin: number[] }> {
  const rope = new Rope(config, dims, dut)
  const { cos, sin } = rope.upTo(position + 1)
  const of = (data: ArrayLike<number>): number[] =>
    Array.from(data).slice((position * dims) / 2, ((position + 1) * dims) / 2)
  const values = { cos: of((await cos.data()) as Float32Array), sin: of((await sin.data()) as Float32Array) }
  rope.dispose()
  return values
}

async function expectAngles(
  config: RopeConfig,
  position: number,
  frequencies: readonly number[],
  factor = 1,
): Promise<void> {
  const { cos, sin } = await row(config, position)
  frequencies.forEach((f, c) => {
    expect(Math.abs(cos[c]! - factor * Math.cos(position * f))).toBeLessThan(1e-7)
    expect(Math.abs(sin[c]! - factor * Math.sin(position * f))).toBeLessThan(1e-7)
  })
}

test('default', async () => {
  for (const position of [0, 1, 37, 300, 5000]) await expectAngles({ rope_theta: theta }, position, plain)
  await expectAngles({ rope_parameters: { rope_type: 'default', rope_theta: theta } }, 3, plain)
  await expectAngles({ rope_theta: theta, rope_scaling: null }, 3, plain)
})

test('linear: positions are pressed together', async () => {
  for (const scaling of [
    { rope_type: 'linear', factor: 4 },
    { type: 'linear', factor: 4 },
  ]) {
    await expectAngles(
      { rope_theta: theta, rope_scaling: scaling },
      100,
      plain.map((f) => f / 4),
    )
  }
})

test('dynamic: the base grows with the length beyond that in training', async () => {
  const config = { rope_theta: theta, max_position_embeddings: 64, rope_scaling: { rope_type: 'dynamic', factor: 2 } }
  await expectAngles(config, 63, plain)
  for (const position of [64, 200]) {
    const base = theta * ((2 * (position + 1)) / 64 - 1) ** (dims / (dims - 2))
    await expectAngles(
      config,
      position,
      plain.map((_, c) => base ** (-c / (dims / 2))),
    )
  }
})

test('llama3: slow frequencies are stretched, fast ones stay', async () => {
  const scaling = {
    ...{ rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4 },
    original_max_position_embeddings: 256,
  }
  const wanted = plain.map((f) => {
    const wave = (2 * Math.PI) / f
    if (wave < 256 / 4) return f
    if (wave > 256 / 1) return f / 8
    const smooth = (256 / wave - 1) / (4 - 1)
    return (1 - smooth) * (f / 8) + smooth * f
  })
  expect(wanted.filter((f, c) => f === plain[c])).not.toHaveLength(0)
  expect(wanted.filter((f, c) => f !== plain[c] && f !== plain[c]! / 8)).not.toHaveLength(0)
  await expectAngles({ rope_theta: theta, rope_scaling: scaling }, 123, wanted)
})

test('yarn: a ramp between the two, and a scale of cos and sin', async () => {
  const scaling = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 512 }
  const pair = (turns: number): number => (dims * Math.log(512 / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
  const [low, high] = [Math.floor(pair(32)), Math.ceil(pair(1))]
  const wanted = plain.map((f, c) => {
    const ramp = Math.min(1, Math.max(0, (c - low) / (high - low)))
    return (f / 4) * ramp + f * (1 - ramp)
  })
  await expectAngles({ rope_theta: theta, rope_scaling: scaling }, 99, wanted, 0.1 * Math.log(4) + 1)
  await expectAngles({ rope_theta: theta, rope_scaling: { ...scaling, attention_factor: 1.5 } }, 99, wanted, 1.5)
  const both = { ...scaling, mscale: 2, mscale_all_dim: 1 }
  await expectAngles(
    { rope_theta: theta, rope_scaling: both },
    9,
    wanted,
    (0.2 * Math.log(4) + 1) / (0.1 * Math.log(4) + 1),
  )
})

test('a table grows, and what it had stays', async () => {
  const rope = new Rope({ rope_theta: theta }, dims, dut)
  const first = rope.upTo(10)
  expect(rope.upTo(20)).toBe(first)
  const before = Array.from((await first.cos.data()) as Float32Array)
  const rows = rope.rows
  const { cos } = rope.upTo(rows + 1)
  expect(rope.rows).toBeGreaterThanOrEqual(2 * rows)
  expect(Array.from((await cos.data()) as Float32Array).slice(0, before.length)).toEqual(before)
  rope.dispose()
})
