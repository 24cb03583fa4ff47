import { spawnSync } from 'node:child_process'
import { describe, expect, test } from 'vitest'
import { add, device, devices, tensor } from '../../lib/index.js'
import { dut } from '../support/device.js'

const root = new URL('../../', import.meta.url)

/** What a process of its own prints when these lines run in it. */
function inProcess(env: Record<string, string>, lines: string): string {
  const code = `import * as seqmix from './lib/index.ts'\nconst { device, devices, tensor } = seqmix\n${lines}`
  const run = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
    cwd: root,
    env: { ...process.env, SEQMIX_DEVICE: '', SEQMIX_CPU_TARGET: '', ...env },
    encoding: 'utf8',
  })
  return (run.stdout + run.stderr).trim()
}

const failure = (expression: string): string =>
  `try { ${expression}; console.log('no error') } catch (e) { console.log(e.name, e.code, e.message) }`

describe('devices', () => {
  test('every device, and for each that is off, why', () => {
    const list = devices()
    expect(list.map((d) => d.name)).toContain('cpu')
    expect(list.some((d) => d.name.startsWith('cuda'))).toBe(true)
    for (const d of list) if (!d.available) expect(d.reason).toMatch(/\w+ \w+/)
  })

  test('one name, one object', () => {
    expect(device('cpu')).toBe(device('cpu'))
    expect(device()).toBe(dut)
    expect([device('cpu').name, device('cpu').type, device('cpu').index]).toEqual(['cpu', 'cpu', 0])
  })

  test('names that are none', () => {
    for (const name of ['gpu', 'cpu:7', 'CPU!', '', 'cuda:-1', 'cuda:x'])
      expect(() => device(name)).toThrow(
        expect.objectContaining({ code: 'ERR_DEVICE', message: expect.stringMatching(/expected .*, got /) }),
      )
    expect(() => device(5 as never)).toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }))
    expect(() => device('cuda:99')).toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }))
    expect(() => tensor([1], { device: 'tpu' })).toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }))
  })

  test('synchronize waits for what is queued', async () => {
    const t = add(tensor([1], { device: dut }), tensor([1], { device: dut }))
    await dut.synchronize()
    dut.synchronizeSync()
    expect(t.dataSync()).toEqual(Float32Array.of(2))
  })

  test('to() another handle of the same device shares the memory; to("cpu") gives data to the CPU', async () => {
    const t = tensor([1, 2], { device: dut })
    expect(t.to(dut.name).device).toBe(dut)
    const c = t.to('cpu')
    expect([c.device.name, c.location, await c.data()]).toEqual(['cpu', 'cpu', Float32Array.of(1, 2)])
    expect(await c.to(dut).data()).toEqual(Float32Array.of(1, 2))
  })

  test.runIf(dut.type === 'cuda')('mixed devices throw', () => {
    expect(() => add(tensor([1], { device: dut }), tensor([1], { device: 'cpu' }))).toThrow(
      expect.objectContaining({
        code: 'ERR_DEVICE',
        message: 'b: expected a tensor on cuda:0 as a is, got one on cpu',
      }),
    )
  })
})

describe('SEQMIX_DEVICE', () => {
  test('changes what device() means, and nothing else', () => {
    expect(inProcess({ SEQMIX_DEVICE: 'cpu' }, `console.log(device().name, tensor([1]).device.name)`)).toBe('cpu cpu')
  })

  test('throws where it names a device that is not there, or none', () => {
    expect(inProcess({ SEQMIX_DEVICE: 'cuda:99' }, failure('device()'))).toMatch(
      /ERR_DEVICE .*SEQMIX_DEVICE|ERR_DEVICE .*cuda:99/,
    )
    expect(inProcess({ SEQMIX_DEVICE: 'abacus' }, failure('device()'))).toMatch(/ERR_DEVICE .*abacus/)
    expect(inProcess({ SEQMIX_DEVICE: 'abacus' }, failure('tensor([1])'))).toMatch(/ERR_DEVICE .*abacus/)
  })

  test('an explicit device wins over it', () => {
    expect(
      inProcess(
        { SEQMIX_DEVICE: 'abacus' },
        `console.log(tensor([1], { device: 'cpu' }).device.name, device('cpu').name)`,
      ),
    ).toBe('cpu cpu')
  })

  test('SEQMIX_CUDA=off leaves CUDA out, and says so', () => {
    const out = inProcess(
      { SEQMIX_CUDA: 'off' },
      `console.log(JSON.stringify(devices().find((d) => d.name.startsWith('cuda'))), device().name)`,
    )
    expect(out).toMatch(/SEQMIX_CUDA/)
    expect(out).toMatch(/cpu$/)
  })
})

describe('SEQMIX_CPU_TARGET', () => {
  test('forces an instruction set', () => {
    const out = inProcess(
      { SEQMIX_DEVICE: 'cpu', SEQMIX_CPU_TARGET: 'scalar' },
      `seqmix.add([1], [1], {}).dataSync?.(); console.log(seqmix.debug.lastKernel(device('cpu')), devices()[0].target)`,
    )
    expect(out).toMatch(/cpu\.scalar\.add\S* scalar/)
  })

  test('one that is none is an error, and says which there are', () => {
    expect(inProcess({ SEQMIX_CPU_TARGET: 'mmx' }, failure(`device('cpu')`))).toMatch(/scalar/)
  })
})
