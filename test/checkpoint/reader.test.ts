import { closeSync, ftruncateSync, mkdirSync, openSync, readdirSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'

import { describe, expect, test } from 'vitest'

import {
  decodeSafetensors,
  encodeSafetensors,
  openCheckpoint,
  saveSafetensors,
  type StoredTensor,
} from '../../lib/checkpoint/index.js'
import { failure, rawFile, temporaryFolder } from './files.js'

const folder = temporaryFolder()

const everyDtype: Record<string, StoredTensor> = {
  a: { dtype: 'float32', shape: [2, 3], data: Float32Array.of(1, 2, 3, -0, NaN, 1e-40) },
  b: { dtype: 'float16', shape: [3], data: Uint16Array.of(0x3c00, 0xc000, 0x0001) },
  c: { dtype: 'bfloat16', shape: [1, 3], data: Uint16Array.of(0x3f80, 0xc000, 0x0001) },
  d: { dtype: 'int32', shape: [2], data: Int32Array.of(-(2 ** 31), 7) },
  e: { dtype: 'int64', shape: [2], data: BigInt64Array.of(-(2n ** 63n), 2n ** 53n + 1n) },
  f: { dtype: 'bool', shape: [3], data: Uint8Array.of(1, 0, 1) },
  g: { dtype: 'int8', shape: [3], data: Int8Array.of(1, -128, 127) },
  scalar: { dtype: 'float32', shape: [], data: Float32Array.of(5) },
  nothing: { dtype: 'float32', shape: [4, 0, 2], data: new Float32Array(0) },
  'näme "quoted"\n': { dtype: 'bool', shape: [1], data: Uint8Array.of(1) },
}

describe('safetensors', () => {
  test('what is saved comes back, every dtype, name and shape', async () => {
    const file = join(folder, 'every.safetensors')
    await saveSafetensors(file, everyDtype, { who: 'tests' })
    const checkpoint = await openCheckpoint(file)
    expect(checkpoint.names().sort()).toEqual(Object.keys(everyDtype).sort())
    expect(checkpoint.metadata).toEqual({ who: 'tests' })
    for (const [name, t] of Object.entries(everyDtype)) expect(await checkpoint.read(name)).toEqual(t)
    expect(checkpoint.info('a')).toMatchObject({ name: 'a', dtype: 'float32', shape: [2, 3], bytes: 24, file })
    expect(checkpoint.has('a') && !checkpoint.has('z')).toBe(true)
    await checkpoint.close()
    await checkpoint.close()
    expect(readdirSync(folder).filter((name) => name.includes('.part'))).toEqual([])
  })

  test('the same in memory', () => {
    const bytes = encodeSafetensors(everyDtype, { who: 'tests' })
    const { tensors, metadata } = decodeSafetensors(bytes)
    expect(tensors).toEqual(everyDtype)
    expect(metadata).toEqual({ who: 'tests' })
    expect(() => decodeSafetensors(bytes.subarray(0, bytes.length - 1))).toThrow(/the file ends at byte/)
  })

  test('values that do not fill their shape are refused', () => {
    const short = { dtype: 'float32', shape: [3], data: Float32Array.of(1) } as const
    expect(() => encodeSafetensors({ short })).toThrow('short: expected 12 bytes for float32 (3), got 4')
  })

  test('floats of any width are widened, integers are not', async () => {
    const file = join(folder, 'floats.safetensors')
    await saveSafetensors(file, everyDtype)
    const checkpoint = await openCheckpoint(file)
    expect((await checkpoint.readFloat32('a')).data).toEqual(everyDtype.a!.data)
    expect((await checkpoint.readFloat32('b')).data).toEqual(Float32Array.of(1, -2, 2 ** -24))
    expect((await checkpoint.readFloat32('c')).data).toEqual(Float32Array.of(1, -2, 2 ** -133))
    expect(await failure(checkpoint.readFloat32('d'))).toMatchObject({ code: 'ERR_UNSUPPORTED' })
    await checkpoint.close()
  })

  test('a dtype that cannot be held is an error when its tensor is read, and not before', async () => {
    const file = join(folder, 'double.safetensors')
    const header =
      '{"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"f":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}'
    writeFileSync(file, rawFile(header, new Uint8Array(12)))
    const checkpoint = await openCheckpoint(file)
    expect((await checkpoint.read('f')).data).toEqual(Float32Array.of(0))
    const error = await failure(checkpoint.read('d'))
    expect(error).toMatchObject({ code: 'ERR_UNSUPPORTED' })
    expect(error.message).toContain('d: dtype F64 is not supported; supported are F32, F16, BF16, I32, I64, BOOL')
    await checkpoint.close()
  })

  test('a tensor that begins at an odd byte is read right', async () => {
    const file = join(folder, 'odd.safetensors')
    const header =
      '{"b":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}'
    writeFileSync(file, rawFile(header, Uint8Array.of(1, 0, 0, 0x80, 0x3f)))
    const checkpoint = await openCheckpoint(file)
    expect((await checkpoint.read('f')).data).toEqual(Float32Array.of(1))
    await checkpoint.close()
  })

  test('a tensor past 4 GiB is read alone', async () => {
    const file = join(folder, 'large.safetensors')
    const before = 2 ** 32 + 2 ** 20
    const entry = (dtype: string, count: number, begin: number, bytes: number) => ({
      dtype,
      shape: [count],
      data_offsets: [begin, begin + bytes],
    })
    const header = JSON.stringify({ large: entry('F16', before / 2, 0, before), small: entry('F32', 3, before, 12) })
    const fd = openSync(file, 'w')
    try {
      writeSync(fd, rawFile(header, new Uint8Array(0)))
      ftruncateSync(fd, 8 + header.length + before) // a hole: takes no room on the disk
      writeSync(fd, new Uint8Array(Float32Array.of(1, 2, 3).buffer), 0, 12, 8 + header.length + before)
    } finally {
      closeSync(fd)
    }
    const checkpoint = await openCheckpoint(file)
    expect(checkpoint.info('small').offset).toBe(8 + header.length + before)
    expect((await checkpoint.read('small')).data).toEqual(Float32Array.of(1, 2, 3))
    await checkpoint.close()
  })
})

describe('sharded checkpoints', () => {
  async function sharded(name: string, index: unknown): Promise<string> {
    const dir = join(folder, name)
    mkdirSync(dir)
    const { a, b, c } = everyDtype as Record<'a' | 'b' | 'c', StoredTensor>
    await saveSafetensors(join(dir, 'model-00001-of-00002.safetensors'), { a, b })
    await saveSafetensors(join(dir, 'model-00002-of-00002.safetensors'), { c })
    writeFileSync(join(dir, 'model.safetensors.index.json'), typeof index === 'string' ? index : JSON.stringify(index))
    return dir
  }
  const first = 'model-00001-of-00002.safetensors'
  const second = 'model-00002-of-00002.safetensors'

  test('are one checkpoint', async () => {
    const dir = await sharded('good', { metadata: { total_size: 36 }, weight_map: { c: second, a: first, b: first } })
    for (const path of [dir, join(dir, 'model.safetensors.index.json')]) {
      const checkpoint = await openCheckpoint(path)
      expect(checkpoint.names()).toEqual(['c', 'a', 'b'])
      expect(checkpoint.info('c').file).toBe(join(dir, second))
      for (const name of ['a', 'b', 'c']) expect(await checkpoint.read(name)).toEqual(everyDtype[name])
      await checkpoint.close()
    }
  })

  const broken: [string, unknown, RegExp][] = [
    [
      'a shard that is missing',
      { weight_map: { a: first, c: 'model-00003.safetensors' } },
      /c: its shard model-00003\.safetensors is missing/,
    ],
    [
      'a tensor its shard lacks',
      { weight_map: { a: first, c: first } },
      /00001-of-00002\.safetensors: c: not in this shard/,
    ],
    ['a shard elsewhere', { weight_map: { a: `../good/${first}` } }, /a: expected the name of a file beside the index/],
    ['a shard that is no name', { weight_map: { a: 3 } }, /a: expected the name of a file beside the index, got 3/],
    ['no weight_map', { metadata: {} }, /weight_map: expected an object/],
    ['a list as weight_map', { weight_map: [first] }, /weight_map: expected an object/],
    ['no object at all', 'null', /weight_map: expected an object/],
    ['no JSON', '{"weight_map":', /cannot be read as JSON/],
    ['a name twice', `{"weight_map":{"a":"${first}","a":"${first}"}}`, /a: said twice, again at character \d+/],
  ]
  test.each(broken)('%s is an error', async (what, index, message) => {
    const error = await failure(openCheckpoint(await sharded(what, index)))
    expect(error).toMatchObject({ code: 'ERR_CHECKPOINT', message: expect.stringMatching(message) as string })
  })
})

describe('directories without a checkpoint', () => {
  test('say what was expected', async () => {
    const dir = join(folder, 'empty')
    mkdirSync(dir)
    expect((await failure(openCheckpoint(dir))).message).toMatch(
      /expected model\.safetensors or model\.safetensors\.index\.json/,
    )
    writeFileSync(join(dir, 'pytorch_model.bin'), '')
    const error = await failure(openCheckpoint(dir))
    expect(error).toMatchObject({ code: 'ERR_CHECKPOINT' })
    expect(error.message).toMatch(/pytorch_model\.bin is not read: convert it/)
    expect((await failure(openCheckpoint(join(dir, 'nowhere')))).message).toMatch(/nowhere: no such file or directory/)
  })
})
