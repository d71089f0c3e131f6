-- svg.lua: a terminal's screen, as `tmux capture-pane -e -p` prints it, to an SVG picture.
-- usage: lua5.4 scripts/docs/svg.lua TITLE <screen.txt >picture.svg
local cell_width, cell_height, font_size, margin, bar = 8.4, 18, 14, 14, 30
local background, foreground = "#11151c", "#d5dae3"
local palette = {
  [0] = "#3b4252", "#e06c75", "#8fc379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d5dae3",
  "#6b7484", "#ef8891", "#a9d996", "#f0d399", "#85c4f7", "#d79ae8", "#7fd0da", "#ffffff",
}

-- Colour n of the 256: 16 named ones, a 6x6x6 cube, 24 greys.
local function indexed(n)
  if n < 16 then return palette[n] end
  if n >= 232 then return ("#%02x%02x%02x"):format(8 + (n - 232) * 10, 8 + (n - 232) * 10, 8 + (n - 232) * 10) end
  local function level(v) return v == 0 and 0 or 55 + v * 40 end
  n = n - 16
  return ("#%02x%02x%02x"):format(level(n // 36), level(n // 6 % 6), level(n % 6))
end

-- Applies the parameters of one SGR sequence ("1;38;5;12") to a style.
local function apply(style, parameters)
  local codes = {}
  for code in (parameters == "" and "0" or parameters):gmatch "%d+" do codes[#codes + 1] = tonumber(code) end
  local i = 1
  while i <= #codes do
    local code = codes[i]
    if code == 0 then for key in pairs(style) do style[key] = nil end
    elseif code == 1 then style.bold = true
    elseif code == 2 then style.dim = true
    elseif code == 7 then style.reverse = true
    elseif code == 22 then style.bold, style.dim = nil, nil
    elseif code == 27 then style.reverse = nil
    elseif code >= 30 and code <= 37 then style.color = palette[code - 30]
    elseif code >= 90 and code <= 97 then style.color = palette[code - 82]
    elseif code >= 40 and code <= 47 then style.behind = palette[code - 40]
    elseif code == 39 then style.color = nil
    elseif code == 49 then style.behind = nil
    elseif (code == 38 or code == 48) and codes[i + 1] == 5 then
      style[code == 38 and "color" or "behind"] = indexed(codes[i + 2])
      i = i + 2
    elseif (code == 38 or code == 48) and codes[i + 1] == 2 then
      style[code == 38 and "color" or "behind"] = ("#%02x%02x%02x"):format(codes[i + 2], codes[i + 3], codes[i + 4])
      i = i + 4
    end
    i = i + 1
  end
end

-- A line of the screen -> runs of one style: {text, column, length, color, behind, bold, dim}.
local function runs(line, style)
  local list, column, position = {}, 0, 1
  local function add(text)
    local length = utf8.len(text)
    if length > 0 then
      local color, behind = style.color, style.behind
      if style.reverse then color, behind = behind or background, color or foreground end
      local run = { text = text, column = column, length = length, color = color, behind = behind }
      run.bold, run.dim = style.bold, style.dim
      list[#list + 1] = run
    end
    column = column + length
  end
  while position <= #line do
    local from, to, parameters, final = line:find("\27%[([%d;]*)(%a)", position)
    add(line:sub(position, (from or #line + 1) - 1))
    if not from then break end
    if final == "m" then apply(style, parameters) end
    position = to + 1
  end
  return list
end

local function escape(text) return (text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" })) end

local lines, columns, style = {}, 80, {}
for line in io.lines() do
  lines[#lines + 1] = runs(line, style)
  local last = lines[#lines][#lines[#lines]]
  if last then columns = math.max(columns, last.column + last.length) end
end
while #lines > 0 and #lines[#lines] == 0 do lines[#lines] = nil end

local width, height = columns * cell_width + 2 * margin, #lines * cell_height + 2 * margin + bar
local out = {}
local function put(...) out[#out + 1] = string.format(...) end
put('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f">', width, height, width, height)
put('<rect width="100%%" height="100%%" rx="8" fill="%s"/>', background)
for i, color in ipairs { "#e06c75", "#e5c07b", "#8fc379" } do
  put('<circle cx="%d" cy="%d" r="5.5" fill="%s"/>', 2 + i * 18, bar // 2 + 3, color)
end
put('<g font-family="ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="%d" fill="%s">', font_size, foreground)
put('<text x="%.0f" y="%d" text-anchor="middle" opacity="0.6">%s</text>', width / 2, bar // 2 + 8, escape(arg[1] or ""))
for row, list in ipairs(lines) do
  local y = bar + margin + (row - 1) * cell_height
  for _, run in ipairs(list) do
    local x, length = margin + run.column * cell_width, run.length * cell_width
    if run.behind then put('<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>', x, y, length, cell_height, run.behind) end
    if run.text:find "%S" then
      put('<text x="%.1f" y="%d" textLength="%.1f" xml:space="preserve"%s%s%s>%s</text>', x, y + 14, length,
        run.color and (' fill="%s"'):format(run.color) or "", run.bold and ' font-weight="bold"' or "",
        run.dim and ' opacity="0.65"' or "", escape(run.text))
    end
  end
end
put "</g></svg>"
print(table.concat(out, "\n"))
