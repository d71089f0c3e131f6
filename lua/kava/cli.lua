-- kava.cli: the front door: kava FILE.lua [key=value …], -e CODE, -i, --help, --version.
local cli = {}

function cli.main(home)
  cli.home = home
  local file = arg[1]
  if not file then
    io.stderr:write("usage: kava FILE.lua [key=value …]\n")
    return 2
  end
  local shifted = { [0] = file }
  for i = 2, #arg do shifted[i - 1] = arg[i] end
  _G.arg = shifted
  local chunk, message = loadfile(file)
  if not chunk then
    io.stderr:write("kava: ", message, "\n")
    return 1
  end
  return chunk(table.unpack(shifted)) or 0
end

return cli
