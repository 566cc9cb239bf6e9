<#
.SYNOPSIS
    Creates a Hyper-V virtual machine of the InfiMONITOR Backup Server from the disk beside this script.

.DESCRIPTION
    Copies the disk to where Hyper-V keeps its disks, takes away the attributes that Hyper-V refuses (sparse, compressed, encrypted),
    and creates a virtual machine with what the appliance needs. Nothing that exists is changed or replaced.

    Unpack the archive on Windows before, and take away the mark of the web, which a download bears:
        Get-ChildItem | Unblock-File
    Where scripts are not allowed to run, as on Windows 10 and 11, begin it so:
        powershell -ExecutionPolicy Bypass -File .\New-BackupServerVM.ps1 -SwitchName LAN

.PARAMETER Name
    Name of the virtual machine.

.PARAMETER SwitchName
    The virtual switch in which the monitor reaches it. Get-VMSwitch lists them.

.PARAMETER Generation
    2: UEFI with Secure Boot. 1: BIOS.

.PARAMETER Devices
    The monitored devices for which it is sized.

.PARAMETER Path
    Folder of the virtual machine and its disk; Hyper-V's own folders without it.

.PARAMETER Start
    Start it at once.

.EXAMPLE
    .\New-BackupServerVM.ps1 -SwitchName LAN -Start

.EXAMPLE
    .\New-BackupServerVM.ps1 -Name backup2 -SwitchName LAN -Generation 1 -Devices 10000 -Path D:\Machines
#>

#Requires -Version 5.1
#Requires -Modules Hyper-V
#Requires -RunAsAdministrator
[CmdletBinding()]
param(
    [ValidateNotNullOrEmpty()]
    [string] $Name = 'backup-server',

    [Parameter(Mandatory = $true)]
    [ValidateNotNullOrEmpty()]
    [string] $SwitchName,

    [ValidateSet(@GENERATIONS@)]
    [int] $Generation = @GENERATION@,

    [ValidateSet(@DEVICES@)]
    [int] $Devices = @DEFAULT@,

    [string] $Path,

    [switch] $Start
)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$sizes = @{
@SIZES@
}
$size = $sizes[$Devices]

$source = Join-Path $PSScriptRoot '@DISK@'
if (-not (Test-Path -LiteralPath $source)) {
    throw "The disk is not beside this script: $source. Unpack the whole archive."
}
# By comparison: -Name of these commands takes wildcards.
$switches = @(Get-VMSwitch | ForEach-Object { $_.Name })
if ($switches.Count -eq 0) {
    throw "There is no virtual switch on this host. Get-NetAdapter lists the network cards; make one: New-VMSwitch -Name LAN -NetAdapterName Ethernet"
}
if ($switches -notcontains $SwitchName) {
    throw "There is no virtual switch '$SwitchName'. There are: $($switches -join ', ')"
}
if (@(Get-VM | ForEach-Object { $_.Name }) -contains $Name) {
    throw "There is a virtual machine '$Name' already; give another name with -Name."
}

if ($Path) {
    # Hyper-V's service does not know the folder in which PowerShell is.
    $Path = $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($Path)
    $folder = Join-Path $Path $Name
} else {
    $folder = (Get-VMHost).VirtualHardDiskPath
}
if (-not (Test-Path -LiteralPath $folder)) {
    New-Item -ItemType Directory -Path $folder | Out-Null
}
$disk = Join-Path $folder "$Name.vhdx"
if (Test-Path -LiteralPath $disk) {
    throw "$disk exists already; remove it, or give another name with -Name."
}

$vm = $null
try {
    Write-Host "Copying the disk to $disk ..."
    Copy-Item -LiteralPath $source -Destination $disk

    # "must be uncompressed and unencrypted and must not be sparse" (0xC03A001A) is about these attributes of the file,
    # which a folder gives to what is put into it.
    & compact.exe /u /q $disk | Out-Null
    & fsutil.exe sparse setflag $disk 0 | Out-Null
    & cipher.exe /d $disk | Out-Null
    $file = Get-Item -LiteralPath $disk
    foreach ($attribute in 'Compressed', 'SparseFile', 'Encrypted') {
        if ($file.Attributes -band [IO.FileAttributes]::$attribute) {
            throw "The attribute $attribute of $disk cannot be taken away; choose another folder with -Path."
        }
    }
    Unblock-File -LiteralPath $disk

    $arguments = @{
        Name               = $Name
        Generation         = $Generation
        MemoryStartupBytes = $size.MemoryMiB * 1MB
        VHDPath            = $disk
        SwitchName         = $SwitchName
    }
    if ($Path) {
        $arguments.Path = $Path
    }
    $vm = New-VM @arguments
    Set-VM -VM $vm -ProcessorCount $size.Cores -StaticMemory -AutomaticStartAction Start -AutomaticStopAction ShutDown
    # Windows 10 and later make checkpoints by themselves: the disk would grow twice, and could not be enlarged while it runs.
    if ((Get-Command Set-VM).Parameters.ContainsKey('AutomaticCheckpointsEnabled')) {
        Set-VM -VM $vm -AutomaticCheckpointsEnabled $false
    }
    if ($Generation -eq 2) {
        # With the default template, which is for Windows alone, the machine stays black without a word.
        Set-VMFirmware -VM $vm -EnableSecureBoot @SECURE_BOOT@ -SecureBootTemplate MicrosoftUEFICertificateAuthority
        Set-VMFirmware -VM $vm -FirstBootDevice (Get-VMHardDiskDrive -VM $vm)
    }
} catch {
    # Nothing half made stays, or the next try would find that it exists already.
    if ($vm) {
        Remove-VM -VM $vm -Force -ErrorAction SilentlyContinue
    }
    Remove-Item -LiteralPath $disk -ErrorAction SilentlyContinue
    throw
}

Write-Host "The virtual machine '$Name' is there: generation $Generation, $($size.Cores) processors, $($size.MemoryMiB) MiB of memory."
if ($Start) {
    try {
        Start-VM -VM $vm
    } catch {
        throw "It is there and does not start: $_ When that is mended: Start-VM -Name '$Name'"
    }
    Write-Host "It starts. Its console shows its address: vmconnect.exe localhost $Name"
} else {
    Write-Host "Start it with: Start-VM -Name '$Name'. Its disk may be enlarged before: Resize-VHD -Path '$disk' -SizeBytes 500GB"
}
